"""A policy and pairs of replies → a policy that prefers the chosen ones (DPO with likelihood and format mask)."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from modelmill.tasks.align.batches import PairBatch, PairBatches
from modelmill.tasks.align.config import PreferenceConfig
from modelmill.tasks.align.records import read_pairs
from modelmill.tasks.align.supervised import cosine_plan, report_record, train_settings
from modelmill.tasks.journal import Journal
from modelmill.tasks.lm.checkpoints import export, set_weights, weights
from modelmill.tasks.lm.engine import Objective, train
from modelmill.tasks.lm.losses import IGNORE, chosen_nll, dpo_loss, token_logprobs
from modelmill.tasks.lm.model import hidden_states, load_model, output_head
from modelmill.tasks.lm.optim import build_optimizer
from modelmill.tasks.lm.settings import OptimizerConfig

PairLoss = Callable[[Tensor, Tensor, float], Tensor]
"""(log-probabilities under the policy [2P], under the reference [2P], beta) → loss of each pair [P]."""


def dpo_pair_loss(policy: Tensor, reference: Tensor, beta: float) -> Tensor:
    """DPO of each pair; chosen rows come first."""
    chosen, rejected = policy.chunk(2)
    reference_chosen, reference_rejected = reference.chunk(2)
    return dpo_loss(chosen, rejected, reference_chosen, reference_rejected, beta=beta)


PAIR_LOSSES: dict[str, PairLoss] = {"dpo": dpo_pair_loss}


def train_preference(
    start: Path,
    tokenizer: Path,
    pairs: Path,
    formatting: Sequence[int],
    output: Path,
    workspace: Path,
    config: PreferenceConfig,
    seed: int,
    device: str,
    journal: Journal,
    label: str,
) -> dict[str, Any]:
    """Train the model in `start`, which is also the reference, on a file of pairs and write it to `output`."""
    model = load_model(start, device=device)
    masked = frozenset(formatting) if config.mask_format_tokens else frozenset()
    batches = PairBatches(read_pairs(pairs), seed=seed, pad_token_id=model.config.pad_token_id or 0, formatting=masked)
    before = {name: tensor.clone() for name, tensor in weights(model).items()}
    batches.reference = reference_logprobs(model, batches, device)
    num_rows = 2 * len(batches.pairs)
    plan = cosine_plan(config, config.epochs * num_rows, 2 * config.batch_pairs, batches.length)
    report = train(
        model,
        build_optimizer(model, OptimizerConfig(weight_decay=config.weight_decay)),
        plan,
        batches,
        train_settings(config, plan),
        objective=preference_objective(config),
        workspace=workspace,
        journal=journal,
        label=label,
    )
    margins = reference_logprobs(model, batches, device) - batches.reference
    if config.average_with_start:
        average_with(model, before, config.average_with_start)
    export(model, tokenizer, output)
    chosen, rejected = (config.beta * margins).mean(dim=1).tolist()
    return report_record(report) | {"pairs": len(batches.pairs), "reward_chosen": chosen, "reward_rejected": rejected}


def preference_objective(config: PreferenceConfig) -> Objective:
    """The sum over a batch's pairs of preference loss + nll_weight · likelihood of the chosen reply."""

    def objective(model: PreTrainedModel, batch: PairBatch) -> Tensor:
        logprobs = reply_logprobs(model, batch)
        policy = (logprobs * batch.preferred).sum(dim=1)
        loss = PAIR_LOSSES[config.loss](policy, batch.reference, config.beta)
        replies = batch.labels != IGNORE
        chosen, mask = logprobs[: batch.num_pairs], replies[: batch.num_pairs]
        nll = chosen_nll(chosen, mask) if config.nll_normalisation == "token" else -(chosen * mask).sum(dim=1)
        return (loss + config.nll_weight * nll).sum()

    return objective


def reply_logprobs(model: PreTrainedModel, batch: PairBatch) -> Tensor:
    """log p of each label [2P, T], 0 where there is none; logits are made only where there is one."""
    hidden = hidden_states(model, batch.input_ids, batch.position_ids)
    kept = batch.labels != IGNORE
    logits = hidden[kept] @ output_head(model).T
    found = token_logprobs(logits[None], batch.labels[kept][None])[0]
    return torch.zeros_like(hidden[..., 0], dtype=found.dtype).masked_scatter(kept, found)


@torch.no_grad()
def reference_logprobs(model: PreTrainedModel, batches: PairBatches, device: str, rows: int = 256) -> Tensor:
    """Log-probability of the preferred tokens of every pair: [2, number of pairs], chosen then rejected."""
    model.eval()
    parts = []
    for start in range(0, len(batches.pairs), rows):
        batch = batches.take(range(start, min(start + rows, len(batches.pairs)))).to(device)
        sums = (reply_logprobs(model, batch) * batch.preferred).sum(dim=1)
        parts.append(torch.stack(sums.chunk(2)))
    return torch.cat(parts, dim=1).cpu()


def average_with(model: PreTrainedModel, before: dict[str, Tensor], share: float) -> None:
    """Replace the weights by share · before + (1 - share) · now."""
    now = weights(model)
    set_weights(model, {name: share * before[name] + (1 - share) * now[name] for name in now})
