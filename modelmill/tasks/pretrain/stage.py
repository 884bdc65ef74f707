"""Token shards and the scaling fit → checkpoint: the base model at its stable rate, and the forecast's score."""

import json
from pathlib import Path
from typing import Any

from modelmill.tasks.files import read_json
from modelmill.tasks.journal import Journal
from modelmill.tasks.lm.artifact import spike_sentences, training_facts, write_checkpoint, write_expert_loads
from modelmill.tasks.lm.data import RowBatches, check_epochs, count_epochs, document_mixture, open_tokens
from modelmill.tasks.lm.evaluate import validation_metrics, validation_set
from modelmill.tasks.lm.model import build_model
from modelmill.tasks.lm.optim import build_optimizer
from modelmill.tasks.lm.parallel.layout import Layout, check_batches, check_layout
from modelmill.tasks.lm.parallel.ranks import Ranks, open_ranks
from modelmill.tasks.lm.plan import Plan
from modelmill.tasks.lm.precision import gathered_type
from modelmill.tasks.lm.report import TrainReport
from modelmill.tasks.lm.shape import ModelShape, count_active_parameters, count_parameters, flops_per_token
from modelmill.tasks.pretrain.config import Config
from modelmill.tasks.pretrain.forecast import forecast_facts, train_with_branch
from modelmill.tasks.pretrain.resolve import Resolved, resolve
from modelmill.tasks.stage import StageContext, StageResult


def run(context: StageContext) -> StageResult:
    """Resolve the recipe against the fit, train on the processes of the compute's layout, report."""
    config: Config = context.config
    fit = read_json(context.latest("fit").path / "fit.json")
    tokens = open_tokens(context.latest("tokens").path)
    resolved = resolve(config, fit["choice"], tokens)
    context.journal.note("pretrain: " + ", ".join(f"{key} {value}" for key, value in resolved.reasons.items()))
    figures = context.pool.run(
        train_base,
        {
            "config": config,
            "resolved": resolved,
            "tokens_folder": tokens.path,
            "workspace": context.workspace / "pretrain",
            "output": context.output,
            "journal": context.journal,
            "device": context.device,
        },
        "pretrain",
        context.pool.layout,
    )
    return result(figures, read_json(context.output / "training.json"))


def train_base(
    config: Config,
    resolved: Resolved,
    tokens_folder: Path,
    workspace: Path,
    output: Path,
    journal: Journal,
    device: str,
    layout: Layout,
) -> dict[str, float]:
    """Train, write the checkpoint, return the figures that depend on the machine; on every process of the layout."""
    check_layout(layout, resolved.shape)
    check_batches(layout, resolved.plan, resolved.shape)
    with open_ranks(layout, device) as ranks:
        return _train(config, resolved, tokens_folder, workspace, output, journal, ranks)


def _train(
    config: Config,
    resolved: Resolved,
    tokens_folder: Path,
    workspace: Path,
    output: Path,
    journal: Journal,
    ranks: Ranks,
) -> dict[str, float]:
    tokens = open_tokens(tokens_folder)
    plan, shape = resolved.plan, resolved.shape
    mixture = document_mixture(
        tokens,
        seed=config.seed,
        weights=resolved.mixture,
        packing=config.packing,
        plan=plan,
    )
    epochs = count_epochs(mixture, plan)
    check_epochs(epochs, config.max_epochs)
    held_out = validation_set(
        tokens,
        sequence_length=plan.sequence_length,
        max_tokens_per_domain=resolved.validation_tokens_per_domain,
    )
    model = build_model(
        shape,
        seed=config.seed,
        initialisation=config.initialisation,
        special_tokens=tokens.special_tokens,
        device=ranks.device,
        ranks=ranks,
        compute_dtype=gathered_type(config.train.precision),
    )
    optimizer = build_optimizer(model, config.optimizer)
    report, decayed = train_with_branch(
        model,
        optimizer,
        plan,
        RowBatches(mixture),
        config,
        branch_share=resolved.branch_share,
        workspace=workspace,
        journal=journal,
        validate=validation_metrics(held_out),
        ranks=ranks,
    )
    training = (
        training_facts(
            report,
            # What the next stage goes on with; after a decay to zero, that is the peak.
            learning_rate=plan.at(plan.total_tokens).learning_rate or plan.schedule.learning_rate,
            sequence_length=max(plan.num_rows),
            rope_theta=plan.at(plan.total_tokens).rope_theta or shape.rope_theta,
        )
        | {"tokens_seen": report.tokens, "parameters": count_parameters(shape), "epochs": epochs}
        | {"active_parameters": count_active_parameters(shape), "family": shape.family, "flops": flops(shape, plan)}
        | {"plan": json.loads(plan.model_dump_json()), "chosen_by": resolved.reasons}
        | forecast_facts(report, decayed, resolved.predicted_loss, resolved.predicted_interval)
    )
    write_checkpoint(output, model, optimizer, tokens, training, report.curve, ranks)
    write_expert_loads(output, model, held_out, config.train, ranks)
    return machine_figures(report)


def flops(shape: ModelShape, plan: Plan) -> float:
    """Of the whole run, each row at its length."""
    return sum(flops_per_token(shape, length) * length * rows for length, rows in plan.num_rows.items())


def machine_figures(report: TrainReport) -> dict[str, float]:
    """Speed: for people, not part of the artifact."""
    return {"tokens_per_second": report.tokens_per_second, "training_seconds": report.seconds}


def result(figures: dict[str, float], training: dict[str, Any]) -> StageResult:
    """Counts, metrics and a table."""
    before, after = training["validation_loss_before"], training["validation_loss"]
    size = f"{training['parameters']:,} parameters"
    if training["family"] == "dots1":
        size += f" ({training['active_parameters']:,} active: a mixture of experts)"
    lines = [
        f"{size}, {training['tokens']:,} tokens in {training['steps']:,} steps "
        f"({figures['tokens_per_second']:,.0f} tokens/s).",
        f"Held-out loss {before:.3f} → {after:.3f}; {training['validation_bits_per_byte']:.3f} bits per byte.",
        *spike_sentences(training),
    ]
    metrics = {
        "validation_loss_before": before,
        "validation_loss": after,
        "validation_bits_per_byte": training["validation_bits_per_byte"],
        **figures,
    }
    if training.get("forecast"):
        metrics |= {key: training[key] for key in ("forecast", "decayed_loss", "forecast_error")}
        lines.append(
            f"Forecast {training['forecast']:.3f}, measured after a decay {training['decayed_loss']:.3f} "
            f"({training['forecast_error']:+.2%})."
        )
    return StageResult(
        rows_in=training["tokens"],
        rows_out=training["tokens"],
        unit="tokens",
        metrics=metrics,
        summary="\n\n".join(lines),
    )
