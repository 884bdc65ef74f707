"""A policy and pairs of replies → a reward model on top of its network, and the reward of every sampled reply."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from modelmill.tasks.align.batches import PairBatch, PairBatches, pad_replies
from modelmill.tasks.align.config import RewardConfig
from modelmill.tasks.align.processes import computed_in_portions, conversation_states
from modelmill.tasks.align.records import read_pairs, read_replies
from modelmill.tasks.align.supervised import pair_plan, pair_settings, report_record
from modelmill.tasks.files import write_json
from modelmill.tasks.journal import Journal
from modelmill.tasks.lm.checkpoints import save_whole, weights
from modelmill.tasks.lm.engine import train
from modelmill.tasks.lm.losses import reward_loss
from modelmill.tasks.lm.model import load_model
from modelmill.tasks.lm.optim import build_optimizer
from modelmill.tasks.lm.parallel.collectives import sum_gradient
from modelmill.tasks.lm.parallel.layout import Layout
from modelmill.tasks.lm.parallel.ranks import Ranks, open_ranks
from modelmill.tasks.lm.settings import OptimizerConfig


class RewardModel(nn.Module):
    """The network of a causal language model with one number read off a reply's last token; the network may be cut over
    processes, the head is whole on each."""

    def __init__(self, policy: PreTrainedModel, ranks: Ranks) -> None:
        super().__init__()
        self.model = policy.model
        self.config = policy.config
        self.ranks = ranks
        self.pad_token_id: int = policy.config.pad_token_id or 0
        self.head = nn.Linear(policy.config.hidden_size, 1, device=policy.device)
        # A reply is neither good nor bad before training.
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def rewards(self, input_ids: Tensor, last: Tensor) -> Tensor:
        """Token ids [R, T] and the position of each reply's last token [R] → rewards [R]."""
        hidden: Any = conversation_states(self, input_ids, self.ranks)  # pyright: ignore[reportArgumentType]
        weight, bias = self.head.weight, self.head.bias
        if not self.ranks.alone:
            # Each process has pairs, or shares of pairs, of its own.
            everyone: Any = dist.group.WORLD
            weight, bias = sum_gradient(weight, everyone), sum_gradient(bias, everyone)
        return F.linear(hidden[torch.arange(len(hidden), device=hidden.device), last], weight, bias).squeeze(1)


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
        model: Any = RewardModel(load_model(start, device=ranks.device, ranks=ranks), ranks)
        batches = PairBatches(trained, seed=seed, pad_token_id=model.pad_token_id)
        plan = pair_plan(config, config.batch_pairs, batches)
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
        found = score_replies(model, [(reply.prompt, reply.token_ids) for reply in read_replies(replies)])
        chosen = score_replies(model, [(pair.prompt, pair.chosen) for pair in held_out])
        rejected = score_replies(model, [(pair.prompt, pair.rejected) for pair in held_out])
        if ranks.is_first:
            write_json(rewards, [round(value, 4) for value in found.tolist()])
    accuracy = float((chosen > rejected).float().mean())
    return report_record(report) | {"pairs": len(known), "held_out_pairs": len(held_out), "pair_accuracy": accuracy}


def reward_objective(config: RewardConfig) -> Callable[[Any, PairBatch], Tensor]:
    """The sum over a batch's pairs of Bradley-Terry, with direct reward when asked; of each pair the share that is this
    process's."""

    def objective(model: RewardModel, batch: PairBatch) -> Tensor:
        chosen, rejected = model.rewards(batch.conversations, batch.last.flatten()).view(-1, 2).unbind(1)
        loss = reward_loss(chosen, rejected, direct=config.direct)
        return (loss * batch.shares).sum().to(loss.dtype)

    return objective


@torch.no_grad()
def score_replies(model: RewardModel, rows: Sequence[tuple[list[int], list[int]]]) -> Tensor:
    """Rewards of (prompt, reply) rows, in their order; every process of a layout gets all of them."""
    model.eval()
    device = model.head.weight.device

    def rewards(indices: Sequence[int]) -> Tensor:
        part = [rows[index] for index in indices]
        length = max(len(prompt) + len(reply) for prompt, reply in part)
        input_ids, _, last = pad_replies(part, length, model.pad_token_id)
        return model.rewards(input_ids.to(device), last.to(device))

    return computed_in_portions(rewards, len(rows), model.ranks, together=512)
