"""A model folder and masked examples → a model folder trained on them (the shared engine, cosine schedule)."""

import math
from pathlib import Path
from typing import Any

from modelmill.tasks.align.batches import PairBatches
from modelmill.tasks.align.chat import read_examples
from modelmill.tasks.align.config import SupervisedConfig, TrainingConfig
from modelmill.tasks.journal import Journal
from modelmill.tasks.lm.checkpoints import export
from modelmill.tasks.lm.data import RowBatches
from modelmill.tasks.lm.engine import train
from modelmill.tasks.lm.model import load_model
from modelmill.tasks.lm.optim import build_optimizer
from modelmill.tasks.lm.parallel.layout import Layout
from modelmill.tasks.lm.parallel.ranks import open_ranks
from modelmill.tasks.lm.plan import Plan, Schedule
from modelmill.tasks.lm.precision import gathered_type
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
    layout: Layout,
) -> dict[str, Any]:
    """Train the model in `start` on the examples file and write it to `output`; returns the run's curve. On every
    process of the layout."""
    with open_ranks(layout, device) as ranks:
        model = load_model(start, device=ranks.device, ranks=ranks, compute_dtype=gathered_type(config.precision))
        rows = MaskedRows(read_examples(examples), seed=seed, pad_token_id=model.config.pad_token_id or 0)
        total_rows = config.epochs * rows.num_rows(config.sequence_length)
        plan = cosine_plan(config, total_rows, batch_rows(config), config.sequence_length)
        report = train(
            model,
            build_optimizer(model, OptimizerConfig(weight_decay=config.weight_decay)),
            plan,
            RowBatches(rows),
            train_settings(config, plan),
            workspace=workspace,
            journal=journal,
            label=label,
            ranks=ranks,
        )
        export(model, tokenizer, output, ranks)
    return report_record(report)


def batch_rows(config: SupervisedConfig) -> int:
    """Rows per optimiser step."""
    return max(config.batch_tokens // config.sequence_length, 1)


def cosine_plan(config: TrainingConfig, total_rows: int, batch_rows: int, length: int) -> Plan:
    """The steps of `total_rows` rows, the last one filled up from the next epochs."""
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
        precision=config.precision,
        activation_checkpointing=config.activation_checkpointing,
        compile=config.compile,
        log_every_steps=max(plan.num_steps // 20, 1),
        checkpoint_every_steps=config.checkpoint_every_steps,
        keep_checkpoints=1,
        num_pieces=2,
    )


def pair_plan(config: TrainingConfig, batches: PairBatches) -> Plan:
    """The steps over pairs, each of which is a row of two conversations."""
    return cosine_plan(config, config.epochs * len(batches.pairs), batches.batch_pairs, 2 * batches.length)


def pair_settings(config: TrainingConfig, plan: Plan) -> TrainSettings:
    """As of other steps, in rows of two conversations: what the recipe says, it says of conversations."""
    settings = train_settings(config, plan)
    rows = settings.micro_batch_rows
    weight = settings.balance.sequence_loss / 2
    return settings.model_copy(
        update={
            "micro_batch_rows": rows and max(rows // 2, 1),
            "balance": settings.balance.model_copy(update={"sequence_loss": weight}),
        }
    )


def report_record(report: TrainReport) -> dict[str, Any]:
    """The deterministic part of a report; seconds and speed are in the journal."""
    return {"steps": report.steps, "tokens": report.tokens, "loss": report.loss, "curve": report.curve}
