"""A policy and pairs of replies → a reward model on top of its network, and the reward of every sampled reply."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from modelmill.tasks.align.batches import PairBatch, PairBatches, ReplyBatch, pad_replies
from modelmill.tasks.align.config import RewardConfig
from modelmill.tasks.align.processes import computed_in_portions
from modelmill.tasks.align.records import read_pairs, read_replies
from modelmill.tasks.align.supervised import pair_plan, pair_settings, report_record
from modelmill.tasks.files import write_json
from modelmill.tasks.journal import Journal
from modelmill.tasks.lm.checkpoints import save_whole, weights
from modelmill.tasks.lm.engine import train
from modelmill.tasks.lm.evaluate import measured
from modelmill.tasks.lm.losses import Measure, reward_loss
from modelmill.tasks.lm.model import load_model, set_head
from modelmill.tasks.lm.optim import build_optimizer
from modelmill.tasks.lm.parallel.collectives import sum_gradient
from modelmill.tasks.lm.parallel.layout import Layout
from modelmill.tasks.lm.parallel.ranks import Ranks, open_ranks
from modelmill.tasks.lm.precision import forward_precision, gathered_type
from modelmill.tasks.lm.settings import OptimizerConfig, Precision


class RewardHead(nn.Module):
    """One number read off a hidden state. Whole on each process that has the last layers."""

    def __init__(self, width: int, ranks: Ranks) -> None:
        super().__init__()
        self.ranks = ranks
        self.reward = nn.Linear(width, 1, device=ranks.device)
        # A reply is neither good nor bad before training.
        nn.init.zeros_(self.reward.weight)
        nn.init.zeros_(self.reward.bias)

    def part(self) -> tuple[Tensor, Tensor]:
        """Weight [1, D] and bias [1]; their gradients are summed, as each process has pairs, or shares of pairs, of its
        own."""
        weight, bias = self.reward.weight, self.reward.bias
        for group in self.ranks.stage_groups:
            weight, bias = sum_gradient(weight, group), sum_gradient(bias, group)
        return weight, bias


def train_reward(
    start: Path,
    pairs: Sequence[Path],
    replies: Path,
    output: Path,
    rewards: Path,
    workspace: Path,
    config: RewardConfig,
    seed: int,
    device: str,
    journal: Journal,
    label: str,
    layout: Layout,
) -> dict[str, Any]:
    """Train a reward model from the policy in `start` and score replies with it; on every process of the layout.

    pairs: files of pairs, all that there are (Llama 3.1 uses all preference data for the reward model); about a tenth
    of the prompts is held out. replies: a file of replies. Writes the weights to `output` and the rewards (JSON list)
    to `rewards`.
    """
    known = [pair for path in pairs for pair in read_pairs(path)]
    held_out = [pair for pair in known if sum(pair.prompt) % 10 == 0] or known
    trained = [pair for pair in known if sum(pair.prompt) % 10] or known
    with open_ranks(layout, device) as ranks:
        dtype = gathered_type(config.precision)
        model = load_model(start, device=ranks.device, ranks=ranks, compute_dtype=dtype, with_head=False)
        set_head(model, RewardHead(model.config.hidden_size, ranks))
        batches = PairBatches(
            trained,
            seed=seed,
            pad_token_id=model.config.pad_token_id or 0,
            batch_pairs=config.batch_pairs,
            divisor=layout.sharing_size,
        )
        plan = pair_plan(config, batches)
        report = train(
            model,
            build_optimizer(model, OptimizerConfig(weight_decay=config.weight_decay)),
            plan,
            batches,
            pair_settings(config, plan),
            objective=reward_objective(config),
            workspace=workspace,
            journal=journal,
            label=label,
            ranks=ranks,
        )
        save_whole(output, weights(model), ranks)
        lines = [
            [(reply.prompt, reply.token_ids) for reply in read_replies(replies)],
            [(pair.prompt, pair.chosen) for pair in held_out],
            [(pair.prompt, pair.rejected) for pair in held_out],
        ]
        found, chosen, rejected = (score_replies(model, each, ranks, config.precision) for each in lines)
        if ranks.is_first:
            write_json(rewards, [round(value, 4) for value in found.tolist()])
    accuracy = float((chosen > rejected).float().mean())
    return report_record(report) | {"pairs": len(known), "held_out_pairs": len(held_out), "pair_accuracy": accuracy}


def reward_objective(config: RewardConfig) -> Measure:
    """The sum over a batch's pairs of Bradley-Terry, with direct reward when asked; of each pair the share that is this
    process's."""

    def objective(hidden: Tensor, head: tuple[Tensor, Tensor], batch: PairBatch) -> Tensor:
        chosen, rejected = rewards_of(hidden, head, batch).view(-1, 2).unbind(1)
        loss = reward_loss(chosen, rejected, direct=config.direct)
        return (loss * batch.shares).sum().to(loss.dtype)

    return objective


def rewards_of(hidden: Tensor, head: tuple[Tensor, Tensor], batch: PairBatch | ReplyBatch) -> Tensor:
    """Rewards of the replies [S], at the last token of each."""
    last = batch.last.flatten()
    states = hidden[torch.arange(len(last), device=last.device), last].float()
    with torch.autocast(hidden.device.type, enabled=False):  # bfloat16 would round rewards to two or three digits
        return F.linear(states, *head).squeeze(1)


def score_replies(
    model: PreTrainedModel, rows: Sequence[tuple[list[int], list[int]]], ranks: Ranks, precision: Precision
) -> Tensor:
    """Rewards of (prompt, reply) rows, in their order; every process of a layout gets all of them."""
    model.eval()
    pad_token_id, divisor = model.config.pad_token_id or 0, ranks.layout.sharing_size
    length = max(len(prompt) + len(reply) for prompt, reply in rows)

    def rewards(indices: Sequence[int]) -> Tensor:
        batch = pad_replies([rows[index] for index in indices], pad_token_id, divisor)
        with forward_precision(precision, ranks.device):
            return measured(model, [batch], rewards_of)[0]

    return computed_in_portions(rewards, len(rows), ranks, length=length)
