"""Checkpoint and token shards → checkpoint with longer context, grown step by step behind two gates."""

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from modelmill.tasks.errors import ContractError
from modelmill.tasks.extend.config import Config, ExtendStep
from modelmill.tasks.extend.gates import check_gates, enforce
from modelmill.tasks.files import read_json, write_json
from modelmill.tasks.journal import Journal
from modelmill.tasks.lm.artifact import read_training, training_facts, write_checkpoint
from modelmill.tasks.lm.checkpoints import load_moments
from modelmill.tasks.lm.data import RowBatches, TokenFolder, document_mixture, open_tokens
from modelmill.tasks.lm.engine import TrainReport, train
from modelmill.tasks.lm.evaluate import score_domains, summary, validation_metrics, validation_set
from modelmill.tasks.lm.mixture import MixtureRows
from modelmill.tasks.lm.model import load_model, set_context
from modelmill.tasks.lm.needle import Haystack, NeedleRows
from modelmill.tasks.lm.optim import build_optimizer
from modelmill.tasks.lm.plan import Plan, Schedule
from modelmill.tasks.stage import StageContext, StageResult

Trainee = tuple[PreTrainedModel, torch.optim.Optimizer]


def run(context: StageContext) -> StageResult:
    """Grow the context in one process, report the gates."""
    figures = context.pool.run(
        grow,
        {
            "config": context.config,
            "checkpoint": context.latest("checkpoint").path,
            "tokens_folder": context.latest("tokens").path,
            "workspace": context.workspace / "extend",
            "output": context.output,
            "journal": context.journal,
            "device": context.device,
        },
        "extend",
    )
    return result(figures, read_json(context.output / "training.json"), read_json(context.output / "gates.json"))


def grow(
    config: Config,
    checkpoint: Path,
    tokens_folder: Path,
    workspace: Path,
    output: Path,
    journal: Journal,
    device: str,
) -> dict[str, float]:
    """Every step, each with its gates; write the checkpoint; return the figures that depend on the machine."""
    tokens = open_tokens(tokens_folder)
    earlier = read_training(checkpoint, tokens)
    check_lengths(config, earlier["sequence_length"])
    model = load_model(checkpoint / "model", device=device)
    optimizer = build_optimizer(model, config.optimizer)
    load_moments(checkpoint / "optimizer.safetensors", model, optimizer)
    held_out = validation_set(
        tokens,
        sequence_length=earlier["sequence_length"],
        max_tokens_per_domain=config.validation_tokens_per_domain,
    )
    haystack = Haystack(tokens, "validation", config.needles)
    rate = config.learning_rate or earlier["learning_rate"]
    before = summary(score_domains(model, held_out))
    reports, outcomes, waivers = [], [], []
    for number, step in enumerate(config.steps):
        set_context(model, rope_theta=step.rope_theta, max_sequence_length=step.sequence_length)
        report = train(
            model,
            optimizer,
            step_plan(config, step, rate),
            RowBatches(step_rows(config, number, tokens)),
            config.train,
            clip_norm=config.optimizer.clip_norm,
            workspace=workspace / f"step-{number}",
            journal=journal,
            label=f"extend to {step.sequence_length}",
            validate=validation_metrics(held_out),
        )
        outcome = check_gates(
            model,
            haystack,
            config.gates,
            sequence_length=step.sequence_length,
            short_before=before["validation_bits_per_byte"],
            short_after=report.last["validation_bits_per_byte"],
        )
        journal.metrics(step.sequence_length, {"needle_accuracy": outcome["needle"]["accuracy"]})
        waivers += enforce(outcome, config.gates)
        reports.append(report)
        outcomes.append(outcome)
    merged = merge(reports)
    merged.first = before
    training = earlier | training_facts(
        merged,
        learning_rate=rate,
        sequence_length=config.steps[-1].sequence_length,
        rope_theta=config.steps[-1].rope_theta,
    )
    training |= {
        "tokens_seen": earlier["tokens_seen"] + merged.tokens,
        "validation_sequence_length": earlier["sequence_length"],
    }
    write_json(output / "gates.json", {"steps": outcomes, "waivers": waivers})
    write_checkpoint(output, model, optimizer, tokens, training, merged.curve)
    return {"tokens_per_second": merged.tokens_per_second, "training_seconds": merged.seconds}


def check_lengths(config: Config, sequence_length: int) -> None:
    """Refuse steps that would not grow the checkpoint's context."""
    if config.steps[0].sequence_length <= sequence_length:
        raise ContractError(
            f"the checkpoint already has a context of {sequence_length} tokens; expected extend.steps to begin above it"
        )


def step_plan(config: Config, step: ExtendStep, learning_rate: float) -> Plan:
    """Constant learning rate after a short warm-up."""
    return Plan(
        total_tokens=step.total_tokens,
        batch_tokens=config.batch_tokens or 2 * step.sequence_length,
        sequence_length=step.sequence_length,
        schedule=Schedule(
            kind="constant",
            learning_rate=learning_rate,
            warmup_tokens=int(config.warmup_share * step.total_tokens),
        ),
    )


def step_rows(config: Config, number: int, tokens: TokenFolder) -> MixtureRows:
    """Documents, the long ones more often, and rows with facts."""
    seed = config.seed + number
    documents = document_mixture(
        tokens,
        seed=seed,
        weights=config.mixture,
        packing=config.packing,
        repeat_long=(config.long_documents.min_tokens, config.long_documents.times),
    )
    sources = {"documents": documents, "needles": NeedleRows(tokens, config.needles, seed=seed)}
    return MixtureRows(sources, {"documents": 1 - config.needle_share, "needles": config.needle_share}, seed=seed)


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
    """Counts, metrics and a table of the gates."""
    rows = [
        f"| {step['sequence_length']} | {step['short']['bits_per_byte']:.4f} (limit {step['short']['limit']:.4f}) | "
        f"{step['needle']['accuracy']:.0%} (limit {step['needle']['limit']:.0%}) |"
        for step in gates["steps"]
    ]
    table = ["| length | short text, bits per byte | facts found |", "|---|---|---|", *rows]
    metrics = {
        "validation_loss_before": training["validation_loss_before"],
        "validation_loss": training["validation_loss"],
        "validation_bits_per_byte": training["validation_bits_per_byte"],
        "needle_accuracy": gates["steps"][-1]["needle"]["accuracy"],
        **figures,
    }
    return StageResult(
        rows_in=training["tokens"],
        rows_out=training["tokens"],
        unit="tokens",
        metrics=metrics,
        summary="\n".join(table + [f"- {waiver}" for waiver in gates["waivers"]]),
        waivers=gates["waivers"],
    )
