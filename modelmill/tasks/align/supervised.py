"""A model folder and masked examples → a model folder trained on them (the shared engine, cosine schedule)."""

import math
from pathlib import Path
from typing import Any

from modelmill.tasks.align.chat import read_examples
from modelmill.tasks.align.config import SupervisedConfig, TrainingConfig
from modelmill.tasks.journal import Journal
from modelmill.tasks.lm.checkpoints import export
from modelmill.tasks.lm.data import RowBatches
from modelmill.tasks.lm.engine import train
from modelmill.tasks.lm.model import load_model
from modelmill.tasks.lm.optim import build_optimizer
from modelmill.tasks.lm.plan import Plan, Schedule
from modelmill.tasks.lm.report import TrainReport
from modelmill.tasks.lm.rows import MaskedRows
from modelmill.tasks.lm.settings import OptimizerConfig, TrainSettings


def train_supervised(
    start: Path,
    tokenizer: Path,
    examples: Path,
    output: Path,
    workspace: Path,
    config: SupervisedConfig,
    seed: int,
    device: str,
    journal: Journal,
    label: str,
) -> dict[str, Any]:
    """Train the model in `start` on the examples file and write it to `output`; returns the run's curve."""
    model = load_model(start, device=device)
    rows = MaskedRows(read_examples(examples), seed=seed, pad_token_id=model.config.pad_token_id or 0)
    total_rows = config.epochs * rows.num_rows(config.sequence_length)
    batch_rows = max(config.batch_tokens // config.sequence_length, 1)
    plan = cosine_plan(config, total_rows, batch_rows, config.sequence_length)
    report = train(
        model,
        build_optimizer(model, OptimizerConfig(weight_decay=config.weight_decay)),
        plan,
        RowBatches(rows),
        train_settings(config, plan),
        workspace=workspace,
        journal=journal,
        label=label,
    )
    export(model, tokenizer, output)
    return report_record(report)


def cosine_plan(config: TrainingConfig, total_rows: int, batch_rows: int, length: int) -> Plan:
    """The steps of `total_rows` rows, the last one filled up from the next epoch."""
    batch_rows = min(batch_rows, total_rows)
    total = math.ceil(total_rows / batch_rows) * batch_rows * length
    schedule = Schedule(
        kind="cosine",
        learning_rate=config.learning_rate,
        final_ratio=config.final_ratio,
        warmup_tokens=int(total * config.warmup_share),
    )
    return Plan(total_tokens=total, batch_tokens=batch_rows * length, sequence_length=length, schedule=schedule)


def train_settings(config: TrainingConfig, plan: Plan) -> TrainSettings:
    """About 20 lines of curve a run, states as often as the recipe asks; the bits do not depend on the threads."""
    return TrainSettings(
        micro_batch_rows=config.micro_batch_rows,
        log_every_steps=max(plan.num_steps // 20, 1),
        checkpoint_every_steps=config.checkpoint_every_steps,
        keep_checkpoints=1,
        num_pieces=2,
    )


def report_record(report: TrainReport) -> dict[str, Any]:
    """The deterministic part of a report; seconds and speed are in the journal."""
    return {"steps": report.steps, "tokens": report.tokens, "loss": report.loss, "curve": report.curve}
