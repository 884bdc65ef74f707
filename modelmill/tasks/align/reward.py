"""A policy and pairs of replies → a reward model on top of its network, and the reward of every sampled reply."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from modelmill.tasks.align.batches import PairBatch, PairBatches, pad_replies
from modelmill.tasks.align.config import RewardConfig
from modelmill.tasks.align.records import read_pairs, read_replies
from modelmill.tasks.align.supervised import cosine_plan, report_record, train_settings
from modelmill.tasks.files import atomic_path, write_json
from modelmill.tasks.journal import Journal
from modelmill.tasks.lm.checkpoints import weights
from modelmill.tasks.lm.engine import train
from modelmill.tasks.lm.losses import reward_loss
from modelmill.tasks.lm.model import hidden_states, load_model
from modelmill.tasks.lm.optim import build_optimizer
from modelmill.tasks.lm.settings import OptimizerConfig


class RewardModel(nn.Module):
    """The network of a causal language model with one number read off a reply's last token."""

    def __init__(self, policy: PreTrainedModel) -> None:
        super().__init__()
        self.model = policy.model
        self.config = policy.config
        self.pad_token_id: int = policy.config.pad_token_id or 0
        self.device = policy.device
        self.head = nn.Linear(policy.config.hidden_size, 1, device=policy.device)
        # A reply is neither good nor bad before training.
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def rewards(self, input_ids: Tensor, last: Tensor) -> Tensor:
        """Token ids [R, T] and the position of each reply's last token [R] → rewards [R]."""
        positions = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        hidden = hidden_states(self, input_ids, positions)  # pyright: ignore[reportArgumentType]
        return self.head(hidden[torch.arange(len(hidden), device=hidden.device), last]).squeeze(1)


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
) -> dict[str, Any]:
    """Train a reward model from the policy in `start` and score replies with it.

    pairs: files of pairs, all that there are (Llama 3.1 uses all preference data for the reward model); about a tenth
    of the prompts is held out. replies: a file of replies. Writes the weights to `output` and the rewards (JSON list)
    to `rewards`.
    """
    model: Any = RewardModel(load_model(start, device=device))
    known = [pair for path in pairs for pair in read_pairs(path)]
    held_out = [pair for pair in known if sum(pair.prompt) % 10 == 0] or known
    batches = PairBatches([p for p in known if sum(p.prompt) % 10] or known, seed=seed, pad_token_id=model.pad_token_id)
    plan = cosine_plan(config, config.epochs * 2 * len(batches.pairs), 2 * config.batch_pairs, batches.length)
    report = train(
        model,
        build_optimizer(model, OptimizerConfig(weight_decay=config.weight_decay)),
        plan,
        batches,
        train_settings(config, plan),
        objective=reward_objective(config),
        workspace=workspace,
        journal=journal,
        label=label,
    )
    with atomic_path(output) as temporary:
        save_file(weights(model), temporary)
    found = score_replies(model, [(reply.prompt, reply.token_ids) for reply in read_replies(replies)])
    write_json(rewards, [round(value, 4) for value in found.tolist()])
    chosen = score_replies(model, [(pair.prompt, pair.chosen) for pair in held_out])
    rejected = score_replies(model, [(pair.prompt, pair.rejected) for pair in held_out])
    accuracy = float((chosen > rejected).float().mean())
    return report_record(report) | {"pairs": len(known), "held_out_pairs": len(held_out), "pair_accuracy": accuracy}


def reward_objective(config: RewardConfig) -> Callable[[Any, PairBatch], Tensor]:
    """The sum over a batch's pairs of Bradley-Terry, with direct reward when asked."""

    def objective(model: RewardModel, batch: PairBatch) -> Tensor:
        chosen, rejected = model.rewards(batch.input_ids, batch.last).chunk(2)
        return reward_loss(chosen, rejected, direct=config.direct).sum()

    return objective


@torch.no_grad()
def score_replies(model: RewardModel, rows: Sequence[tuple[list[int], list[int]]], num_rows: int = 512) -> Tensor:
    """Rewards of (prompt, reply) rows, in their order."""
    model.eval()
    parts = []
    for start in range(0, len(rows), num_rows):
        part = rows[start : start + num_rows]
        length = max(len(prompt) + len(reply) for prompt, reply in part)
        input_ids, _, last = pad_replies(part, length, model.pad_token_id)
        parts.append(model.rewards(input_ids.to(model.device), last.to(model.device)).cpu())
    return torch.cat(parts)
