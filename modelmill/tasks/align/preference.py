"""A policy and pairs of replies → a policy that prefers the chosen ones (DPO with likelihood and format mask)."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from modelmill.tasks.align.batches import PairBatch, PairBatches
from modelmill.tasks.align.config import PreferenceConfig
from modelmill.tasks.align.processes import computed_in_portions, sum_over_labels
from modelmill.tasks.align.records import read_pairs
from modelmill.tasks.align.supervised import pair_plan, pair_settings, report_record
from modelmill.tasks.journal import Journal
from modelmill.tasks.lm.checkpoints import export, set_weights, weights
from modelmill.tasks.lm.engine import train
from modelmill.tasks.lm.evaluate import measured
from modelmill.tasks.lm.losses import IGNORE, Head, Measure, chosen_nll, dpo_loss, token_logprobs
from modelmill.tasks.lm.model import load_model
from modelmill.tasks.lm.optim import build_optimizer
from modelmill.tasks.lm.parallel.layout import Layout
from modelmill.tasks.lm.parallel.ranks import Ranks, open_ranks
from modelmill.tasks.lm.parallel.vocabulary import whole_head
from modelmill.tasks.lm.precision import forward_precision, gathered_type
from modelmill.tasks.lm.settings import OptimizerConfig, Precision

PairLoss = Callable[[Tensor, Tensor, float], Tensor]
"""(log-probabilities of (chosen, rejected) under the policy [P, 2], under the reference [P, 2], beta) → losses [P]."""


def dpo_pair_loss(policy: Tensor, reference: Tensor, beta: float) -> Tensor:
    """DPO of each pair."""
    chosen, rejected = policy.unbind(1)
    reference_chosen, reference_rejected = reference.unbind(1)
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
    layout: Layout,
) -> dict[str, Any]:
    """Train the model in `start`, which is also the reference, on a file of pairs and write it to `output`; on every
    process of the layout."""
    with open_ranks(layout, device) as ranks:
        known = read_pairs(pairs)
        model = load_model(start, device=ranks.device, ranks=ranks, compute_dtype=gathered_type(config.precision))
        batches = PairBatches(
            known,
            seed=seed,
            pad_token_id=model.config.pad_token_id or 0,
            batch_pairs=config.batch_pairs,
            formatting=frozenset(formatting) if config.mask_format_tokens else frozenset(),
            divisor=layout.sharing_size,
        )
        plan = pair_plan(config, batches)
        before = {name: tensor.clone() for name, tensor in weights(model).items()}
        batches.reference = reference_logprobs(model, batches, ranks, config.precision)
        report = train(
            model,
            build_optimizer(model, OptimizerConfig(weight_decay=config.weight_decay)),
            plan,
            batches,
            pair_settings(config, plan),
            objective=preference_objective(config, ranks),
            workspace=workspace,
            journal=journal,
            label=label,
            ranks=ranks,
        )
        margins = reference_logprobs(model, batches, ranks, config.precision) - batches.reference
        if config.average_with_start:
            average_with(model, before, config.average_with_start)
        export(model, tokenizer, output, ranks)
    chosen, rejected = (config.beta * margins).mean(dim=0).tolist()
    return report_record(report) | {"pairs": len(known), "reward_chosen": chosen, "reward_rejected": rejected}


def preference_objective(config: PreferenceConfig, ranks: Ranks) -> Measure:
    """The sum over a batch's pairs of preference loss + nll_weight · likelihood of the chosen reply; of each pair the
    share that is this process's."""

    def objective(hidden: Tensor, head: Head, batch: PairBatch) -> Tensor:
        num_pairs = len(batch.labels)
        logprobs = sum_over_labels(reply_logprobs(hidden, head, batch), ranks).view(num_pairs, 2, -1)
        policy = (logprobs * batch.preferred.view_as(logprobs)).sum(dim=2)
        loss = PAIR_LOSSES[config.loss](policy, batch.reference, config.beta)
        chosen, mask = logprobs[:, 0], batch.replies.view_as(logprobs)[:, 0]
        nll = chosen_nll(chosen, mask) if config.nll_normalisation == "token" else -(chosen * mask).sum(dim=1)
        return ((loss + config.nll_weight * nll) * batch.shares).sum().to(loss.dtype)

    return objective


def reply_logprobs(hidden: Tensor, head: Head, batch: PairBatch) -> Tensor:
    """log p of each label [P, 2T], 0 where there is none; logits are made only where there is one."""
    labels = batch.labels.view(hidden.shape[:2])
    kept = labels != IGNORE
    logits = hidden[kept] @ whole_head(head).T
    found = token_logprobs(logits[None], labels[kept][None])[0]
    return torch.zeros_like(hidden[..., 0], dtype=found.dtype).masked_scatter(kept, found).reshape(batch.labels.shape)


def reference_logprobs(
    model: PreTrainedModel, batches: PairBatches, ranks: Ranks, precision: Precision = "fp32"
) -> Tensor:
    """Log-probability of the preferred tokens of every pair: [number of pairs, 2], chosen and rejected."""
    model.eval()

    def sums(hidden: Tensor, head: Head, batch: PairBatch) -> Tensor:
        return (reply_logprobs(hidden, head, batch) * batch.preferred).view(len(batch.labels), 2, -1).sum(dim=2)

    def of_pairs(indices: Sequence[int]) -> Tensor:
        with forward_precision(precision, ranks.device):
            return measured(model, [batches.take(indices)], sums)[0]

    return computed_in_portions(of_pairs, len(batches.pairs), ranks, length=2 * batches.length)


def average_with(model: PreTrainedModel, before: dict[str, Tensor], share: float) -> None:
    """Replace the weights by share · before + (1 - share) · now."""
    now = weights(model)
    set_weights(model, {name: share * before[name] + (1 - share) * now[name] for name in now})
