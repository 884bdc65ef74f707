"""Checkpoint and token shards → checkpoint with longer context, grown step by step behind two gates."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from modelmill.tasks.extend.config import Config
from modelmill.tasks.extend.gates import check_gates, enforce, measure
from modelmill.tasks.extend.report import gate_table, last_ruler, needle_table, ruler_table, write_needle_figure
from modelmill.tasks.extend.steps import check_lengths, set_rotary, step_plan, step_rows
from modelmill.tasks.files import read_json, write_json
from modelmill.tasks.journal import Journal
from modelmill.tasks.lm.artifact import (
    read_training,
    spike_sentences,
    training_facts,
    write_checkpoint,
    write_expert_loads,
)
from modelmill.tasks.lm.checkpoints import load_moments
from modelmill.tasks.lm.data import RowBatches, TokenFolder, check_epochs, count_epochs, open_tokens
from modelmill.tasks.lm.engine import train
from modelmill.tasks.lm.evaluate import ValidationSet, score_domains, summary, validation_metrics, validation_set
from modelmill.tasks.lm.model import load_model, read_shape
from modelmill.tasks.lm.needle import Haystack
from modelmill.tasks.lm.optim import build_optimizer
from modelmill.tasks.lm.parallel.layout import Layout, check_batches, check_layout
from modelmill.tasks.lm.parallel.ranks import Ranks, open_ranks
from modelmill.tasks.lm.precision import forward_precision, gathered_type
from modelmill.tasks.lm.report import TrainReport
from modelmill.tasks.lm.shape import ModelShape
from modelmill.tasks.stage import StageContext, StageResult


def run(context: StageContext) -> StageResult:
    """Grow the context on the processes of the compute's layout, report the gates."""
    checkpoint = context.latest("checkpoint").path
    check_layout(context.pool.layout, read_shape(checkpoint / "model"))
    figures = context.pool.run(
        grow,
        {
            "config": context.config,
            "checkpoint": checkpoint,
            "tokens_folder": context.latest("tokens").path,
            "workspace": context.workspace / "extend",
            "output": context.output,
            "journal": context.journal,
            "device": context.device,
        },
        "extend",
        context.pool.layout,
    )
    return result(figures, read_json(context.output / "training.json"), read_json(context.output / "gates.json"))


@dataclass(frozen=True)
class Growth:
    """What every step of one run shares. `before`: the model as it came, measured at all lengths of the run."""

    config: Config
    tokens: TokenFolder
    model: PreTrainedModel
    optimizer: torch.optim.Optimizer
    held_out: ValidationSet
    haystack: Haystack
    shape: ModelShape
    learning_rate: float
    short_before: dict[str, float]
    before: dict[str, Any]
    workspace: Path
    journal: Journal
    ranks: Ranks


def grow(
    config: Config,
    checkpoint: Path,
    tokens_folder: Path,
    workspace: Path,
    output: Path,
    journal: Journal,
    device: str,
    layout: Layout,
) -> dict[str, float]:
    """Every step, each with its gates; write the checkpoint; return the figures that depend on the machine. On every
    process of the layout."""
    with open_ranks(layout, device) as ranks:
        return _grow(config, checkpoint, tokens_folder, workspace, output, journal, ranks)


def _grow(
    config: Config,
    checkpoint: Path,
    tokens_folder: Path,
    workspace: Path,
    output: Path,
    journal: Journal,
    ranks: Ranks,
) -> dict[str, float]:
    tokens = open_tokens(tokens_folder)
    earlier = read_training(checkpoint, tokens)
    check_lengths(config, earlier["sequence_length"])
    rate, shape = config.learning_rate or earlier["learning_rate"], read_shape(checkpoint / "model")
    for step in config.steps:
        check_batches(ranks.layout, step_plan(config, step, rate), shape)
    growth = begin(config, checkpoint, earlier, tokens, workspace, journal, ranks)
    reports: list[TrainReport] = []
    found = {key: growth.before[key] for key in ("needle", "ruler")}
    gates: dict[str, Any] = {"before": found, "steps": [], "waivers": []}
    for number in range(len(config.steps)):
        report, outcome = take_step(growth, number)
        reports.append(report)
        gates["steps"].append(outcome)
        if ranks.is_first:
            write_json(output / "gates.json", gates)
            write_needle_figure(output / "report" / "needle.svg", gates)
        gates["waivers"] += enforce(outcome, config.gates)
    if ranks.is_first:
        write_json(output / "gates.json", gates)
    merged = merge(reports)
    merged.first = growth.short_before
    training = earlier | training_facts(
        merged,
        learning_rate=growth.learning_rate,
        sequence_length=config.steps[-1].sequence_length,
        rope_theta=gates["steps"][-1]["rope"]["rope_theta"],
    )
    training |= {
        "tokens_seen": earlier["tokens_seen"] + merged.tokens,
        "validation_sequence_length": earlier["sequence_length"],
        "epochs": sum_epochs([step["epochs"] for step in gates["steps"]]),
    }
    write_checkpoint(output, growth.model, growth.optimizer, tokens, training, merged.curve, ranks)
    write_expert_loads(output, growth.model, growth.held_out, config.train, ranks)
    return {"tokens_per_second": merged.tokens_per_second, "training_seconds": merged.seconds}


def begin(
    config: Config,
    checkpoint: Path,
    earlier: dict[str, Any],
    tokens: TokenFolder,
    workspace: Path,
    journal: Journal,
    ranks: Ranks,
) -> Growth:
    """Load the model with its moments, and measure it as it came."""
    model = load_model(
        checkpoint / "model", device=ranks.device, ranks=ranks, compute_dtype=gathered_type(config.train.precision)
    )
    optimizer = build_optimizer(model, config.optimizer)
    load_moments(checkpoint / "optimizer.safetensors", model, optimizer)
    held_out = validation_set(
        tokens,
        sequence_length=earlier["sequence_length"],
        max_tokens_per_domain=config.validation_tokens_per_domain,
    )
    haystack = Haystack(tokens, "validation", config.needles)
    lengths = [earlier["sequence_length"], *(step.sequence_length for step in config.steps)]
    with forward_precision(config.train.precision, ranks.device):
        short_before = ranks.share(summary(score_domains(model, held_out)))
        before = ranks.share(measure(model, haystack, held_out, config.gates, lengths))
    return Growth(
        config=config,
        tokens=tokens,
        model=model,
        optimizer=optimizer,
        held_out=held_out,
        haystack=haystack,
        shape=read_shape(checkpoint / "model"),
        learning_rate=config.learning_rate or earlier["learning_rate"],
        short_before=short_before,
        before=before,
        workspace=workspace,
        journal=journal,
        ranks=ranks,
    )


def take_step(growth: Growth, number: int) -> tuple[TrainReport, dict[str, Any]]:
    """Train one step, and what it measured behind its gates."""
    config, step = growth.config, growth.config.steps[number]
    set_rotary(growth.model, step, growth.shape)
    plan = step_plan(config, step, growth.learning_rate)
    rows = step_rows(config, number, growth.tokens)
    epochs = count_epochs(rows, plan)
    check_epochs(epochs, config.max_epochs)
    report = train(
        growth.model,
        growth.optimizer,
        plan,
        RowBatches(rows),
        config.train,
        clip_norm=config.optimizer.clip_norm,
        workspace=growth.workspace / f"step-{number}",
        journal=growth.journal,
        label=f"extend to {step.sequence_length}",
        validate=validation_metrics(growth.held_out),
        ranks=growth.ranks,
    )
    lengths = sorted({cell["length"] for cell in growth.before["needle"]})[: number + 2]
    with forward_precision(config.train.precision, growth.ranks.device):
        after = measure(growth.model, growth.haystack, growth.held_out, config.gates, lengths)
    outcome = check_gates(
        growth.before,
        after,
        config.gates,
        short_before=growth.short_before["validation_bits_per_byte"],
        short_after=report.last["validation_bits_per_byte"],
    )
    # All processes go by what the first one found: one that went on alone would wait for the others.
    outcome = growth.ranks.share(outcome)
    if growth.ranks.is_first:
        growth.journal.metrics(step.sequence_length, {"needle_accuracy": outcome["needle"]["accuracy"]})
    rope = growth.model.config.rope_parameters
    facts = {"sequence_length": step.sequence_length, "tokens": report.tokens, "rope": rope, "epochs": epochs}
    return report, facts | outcome


def sum_epochs(steps: Sequence[dict[str, float]]) -> dict[str, float]:
    """Passes over each domain in all steps."""
    return {domain: sum(epochs.get(domain, 0.0) for epochs in steps) for domain in dict.fromkeys(chain(*steps))}


def merge(reports: list[TrainReport]) -> TrainReport:
    """The steps as one run: steps and tokens go on from one to the next."""
    curve: list[dict[str, Any]] = []
    steps = tokens = 0
    for report in reports:
        curve += [line | {"step": line["step"] + steps, "tokens": line["tokens"] + tokens} for line in report.curve]
        steps, tokens = steps + report.steps, tokens + report.tokens
    seconds = sum(report.seconds for report in reports)
    return TrainReport(
        steps=steps,
        tokens=tokens,
        loss=reports[-1].loss,
        curve=curve,
        first=reports[0].first,
        last=reports[-1].last,
        tokens_per_second=sum(report.tokens_per_second * report.seconds for report in reports) / seconds
        if seconds
        else 0.0,
        seconds=seconds,
    )


def result(figures: dict[str, float], training: dict[str, Any], gates: dict[str, Any]) -> StageResult:
    """Counts, metrics and tables of what was found."""
    metrics = {
        "validation_loss_before": training["validation_loss_before"],
        "validation_loss": training["validation_loss"],
        "validation_bits_per_byte": training["validation_bits_per_byte"],
        "needle_accuracy": gates["steps"][-1]["needle"]["accuracy"],
        **{f"ruler/{task}": share for task, share in last_ruler(gates).items()},
        **figures,
    }
    tables = [gate_table(gates), "Facts found, by depth:", needle_table(gates)]
    if ruler := ruler_table(gates):
        tables += ["Tasks over the whole context:", ruler]
    return StageResult(
        rows_in=training["tokens"],
        rows_out=training["tokens"],
        unit="tokens",
        metrics=metrics,
        summary="\n\n".join([*tables, *spike_sentences(training), *(f"- {waiver}" for waiver in gates["waivers"])]),
        waivers=gates["waivers"],
    )
