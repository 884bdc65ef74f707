"""One shape and several token counts → what a decayed run of each scores, all of them from one stable run.

warm-up, then constant learning rate ──┬───────────────┬──────────────┬
                                       └ decay → score └ decay → score └ decay → score
"""

import copy
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from modelmill.tasks.journal import Journal
from modelmill.tasks.lm.data import RowBatches, document_mixture, open_tokens
from modelmill.tasks.lm.engine import train
from modelmill.tasks.lm.evaluate import ValidationSet, score_domains, summary, validation_set
from modelmill.tasks.lm.model import build_model
from modelmill.tasks.lm.optim import build_optimizer, moments, set_moments
from modelmill.tasks.lm.plan import Plan, Schedule
from modelmill.tasks.lm.settings import InitialisationConfig, OptimizerConfig, TrainSettings
from modelmill.tasks.lm.shape import ModelShape
from modelmill.tasks.scaling.suite_scores import SuiteQuestions, score_suite, suite_questions

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
    mixture: dict[str, float] | None,
    suite: str | None,
    initialisation: dict[str, Any],
    optimizer: dict[str, Any],
    seed: int,
    journal: Journal,
    label: str,
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """What a decayed run of each of `token_counts`, which ascend, scores at its end.

    Each is {loss: validation loss, domains: that of each domain; nats per token} and, with a suite, {answer_nll: nats
    per character of the right answers, accuracy}.

    Runs on one thread: several proxies share a machine, and the result does not depend on how many. A process that
    trains many of them imports torch, maps the tokens and packs them once.

    Raises:
        MillError: a run diverged.
    """
    held_out = _held_out(tokens_folder, sequence_length, validation_tokens_per_domain)
    questions = _questions(tokens_folder, suite) if suite else None
    batches = _batches(tokens_folder, seed, tuple(sorted(mixture.items())) if mixture else None)
    settings = TrainSettings(num_threads=1, log_every_steps=1000)
    adam = OptimizerConfig(**optimizer)
    model = build_model(
        ModelShape(**shape), seed=seed, initialisation=InitialisationConfig(**initialisation), device=device
    )
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

    scores, position = [], 0
    for number, count in enumerate(token_counts):
        journal.progress(label, sum(token_counts[:number]), sum(token_counts), "tokens")
        start = branch_start(count, decay_share, batch_tokens)
        advance(stable, position, start, decay_tokens=0)
        branch = _branch(stable, adam)
        advance(branch, start, count, decay_tokens=count - start)
        scores.append(_scores(branch[0].eval(), held_out, questions))
        position = start
    journal.progress(label, sum(token_counts), sum(token_counts), "tokens")
    return scores


def branch_start(tokens: int, decay_share: float, batch_tokens: int) -> int:
    """Tokens after which the decay of a run of `tokens` begins: a whole number of batches."""
    return round(tokens * (1 - decay_share) / batch_tokens) * batch_tokens


def _branch(trunk: Trainee, config: OptimizerConfig) -> Trainee:
    """A copy of weights and optimiser moments that trains on without touching the trunk."""
    model = copy.deepcopy(trunk[0])
    optimizer = build_optimizer(model, config)
    set_moments(optimizer, model, moments(trunk[1], trunk[0]))
    return model, optimizer


def _scores(model: PreTrainedModel, held_out: ValidationSet, questions: SuiteQuestions | None) -> dict[str, Any]:
    by_domain = score_domains(model, held_out)
    found: dict[str, Any] = {
        "loss": summary(by_domain)["validation_loss"],
        "domains": {domain: score.loss for domain, score in by_domain.items()},
    }
    return found | (score_suite(model, questions) if questions else {})


@lru_cache(maxsize=2)
def _held_out(tokens_folder: Path | str, sequence_length: int, max_tokens_per_domain: int) -> ValidationSet:
    return validation_set(
        open_tokens(tokens_folder), sequence_length=sequence_length, max_tokens_per_domain=max_tokens_per_domain
    )


@lru_cache(maxsize=2)
def _batches(tokens_folder: Path | str, seed: int, weights: tuple[tuple[str, float], ...] | None) -> RowBatches:
    """Packed rows, kept by the process: packing a large corpus takes longer than a small proxy."""
    given: Mapping[str, float] | None = dict(weights) if weights else None
    return RowBatches(document_mixture(open_tokens(tokens_folder), seed=seed, weights=given))


@lru_cache(maxsize=2)
def _questions(tokens_folder: Path | str, suite: str) -> SuiteQuestions:
    return suite_questions(suite, open_tokens(tokens_folder))
