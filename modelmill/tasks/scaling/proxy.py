"""One shape and several token counts → the validation loss of a decayed run at each, from one stable run.

warm-up, then constant learning rate ──┬───────────────┬──────────────┬
                                       └ decay → loss  └ decay → loss └ decay → loss
"""

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from modelmill.tasks.journal import Journal
from modelmill.tasks.lm.data import RowBatches, document_mixture, open_tokens
from modelmill.tasks.lm.engine import train
from modelmill.tasks.lm.evaluate import score_domains, summary, validation_set
from modelmill.tasks.lm.model import build_model
from modelmill.tasks.lm.optim import build_optimizer, moments, set_moments
from modelmill.tasks.lm.plan import Plan, Schedule
from modelmill.tasks.lm.settings import InitialisationConfig, OptimizerConfig, TrainSettings
from modelmill.tasks.lm.shape import ModelShape

Trainee = tuple[PreTrainedModel, torch.optim.Optimizer]


def train_proxy(
    *,
    tokens_folder: Path | str,
    shape: dict[str, Any],
    token_counts: list[int],
    learning_rate: float,
    batch_tokens: int,
    sequence_length: int,
    warmup_tokens: int,
    decay_share: float,
    validation_tokens_per_domain: int,
    initialisation: dict[str, Any],
    optimizer: dict[str, Any],
    seed: int,
    journal: Journal,
    label: str,
) -> list[float]:
    """Validation loss (nats per token) at the end of a decayed run of each of `token_counts`, which ascend.

    Runs on one thread: several proxies share a machine, and the result does not depend on how many.

    Raises:
        MillError: a run diverged.
    """
    tokens = open_tokens(tokens_folder)
    held_out = validation_set(
        tokens, sequence_length=sequence_length, max_tokens_per_domain=validation_tokens_per_domain
    )
    batches = RowBatches(document_mixture(tokens, seed=seed))
    settings = TrainSettings(num_threads=1, log_every_steps=1000)
    adam = OptimizerConfig(**optimizer)
    model = build_model(ModelShape(**shape), seed=seed, initialisation=InitialisationConfig(**initialisation))
    stable = model, build_optimizer(model, adam)

    def advance(trainee: Trainee, start: int, end: int, decay_tokens: int) -> None:
        schedule = Schedule(
            kind="wsd" if decay_tokens else "constant",
            learning_rate=learning_rate,
            warmup_tokens=warmup_tokens,
            decay_tokens=decay_tokens,
        )
        plan = Plan(total_tokens=end, batch_tokens=batch_tokens, sequence_length=sequence_length, schedule=schedule)
        train(*trainee, plan, batches, settings, clip_norm=adam.clip_norm, start_tokens=start, label=label)

    losses, position = [], 0
    for number, count in enumerate(token_counts):
        journal.progress(label, sum(token_counts[:number]), sum(token_counts), "tokens")
        start = branch_start(count, decay_share, batch_tokens)
        advance(stable, position, start, decay_tokens=0)
        branch = _branch(stable, adam)
        advance(branch, start, count, decay_tokens=count - start)
        losses.append(summary(score_domains(branch[0].eval(), held_out))["validation_loss"])
        position = start
    journal.progress(label, sum(token_counts), sum(token_counts), "tokens")
    return losses


def branch_start(tokens: int, decay_share: float, batch_tokens: int) -> int:
    """Tokens after which the decay of a run of `tokens` begins: a whole number of batches."""
    return round(tokens * (1 - decay_share) / batch_tokens) * batch_tokens


def _branch(trunk: Trainee, config: OptimizerConfig) -> Trainee:
    """A copy of weights and optimiser moments that trains on without touching the trunk."""
    model = copy.deepcopy(trunk[0])
    optimizer = build_optimizer(model, config)
    set_moments(optimizer, model, moments(trunk[1], trunk[0]))
    return model, optimizer
