"""Checkpoint and token shards → annealed checkpoint: learning rate to zero, last weights against their average."""

from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from modelmill.tasks.anneal.config import Config
from modelmill.tasks.anneal.instructions import instruction_rows
from modelmill.tasks.files import read_json
from modelmill.tasks.journal import Journal
from modelmill.tasks.lm.artifact import (
    read_training,
    spike_sentences,
    training_facts,
    write_checkpoint,
    write_expert_loads,
)
from modelmill.tasks.lm.checkpoints import load_moments, set_average, set_weights, snapshots, weights
from modelmill.tasks.lm.data import (
    RowBatches,
    TokenFolder,
    check_epochs,
    count_epochs,
    document_mixture,
    open_tokens,
)
from modelmill.tasks.lm.engine import Validate, train
from modelmill.tasks.lm.evaluate import validation_metrics, validation_set
from modelmill.tasks.lm.mixture import MixtureRows
from modelmill.tasks.lm.model import load_model, read_shape
from modelmill.tasks.lm.needle import NeedleRows
from modelmill.tasks.lm.optim import build_optimizer
from modelmill.tasks.lm.parallel.layout import Layout, check_batches, check_layout
from modelmill.tasks.lm.parallel.ranks import Ranks, open_ranks
from modelmill.tasks.lm.plan import Plan
from modelmill.tasks.lm.precision import forward_precision, gathered_type
from modelmill.tasks.lm.rows import RowSource
from modelmill.tasks.lm.schedule import Phase, Schedule
from modelmill.tasks.lm.settings import TrainSettings
from modelmill.tasks.stage import StageContext, StageResult


def run(context: StageContext) -> StageResult:
    """Anneal on the processes of the compute's layout, report last against average."""
    checkpoint = context.latest("checkpoint").path
    check_layout(context.pool.layout, read_shape(checkpoint / "model"))
    figures = context.pool.run(
        anneal,
        {
            "config": context.config,
            "checkpoint": checkpoint,
            "tokens_folder": context.latest("tokens").path,
            "workspace": context.workspace / "anneal",
            "output": context.output,
            "journal": context.journal,
            "device": context.device,
        },
        "anneal",
        context.pool.layout,
    )
    return result(figures, read_json(context.output / "training.json"))


def anneal(
    config: Config,
    checkpoint: Path,
    tokens_folder: Path,
    workspace: Path,
    output: Path,
    journal: Journal,
    device: str,
    layout: Layout,
) -> dict[str, float]:
    """Decay, average, keep, write the checkpoint; return the figures that depend on the machine. On every process of
    the layout."""
    with open_ranks(layout, device) as ranks:
        return _anneal(config, checkpoint, tokens_folder, workspace, output, journal, ranks)


def _anneal(
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
    plan = decay_plan(config, earlier)
    check_batches(ranks.layout, plan, read_shape(checkpoint / "model"))
    rows = anneal_rows(config, tokens, plan)
    epochs = count_epochs(rows, plan)
    check_epochs(epochs, config.max_epochs)
    model = load_model(
        checkpoint / "model", device=ranks.device, ranks=ranks, compute_dtype=gathered_type(config.train.precision)
    )
    optimizer = build_optimizer(model, config.optimizer)
    load_moments(checkpoint / "optimizer.safetensors", model, optimizer)
    common_length = earlier.get("validation_sequence_length", earlier["sequence_length"])
    held_out = validation_set(
        tokens, sequence_length=common_length, max_tokens_per_domain=config.validation_tokens_per_domain
    )
    validate = validation_metrics(held_out)
    report = train(
        model,
        optimizer,
        plan,
        RowBatches(rows),
        snapshot_settings(config, plan),
        clip_norm=config.optimizer.clip_norm,
        workspace=workspace,
        journal=journal,
        label="anneal",
        validate=validate,
        ranks=ranks,
    )
    last = report.last
    choice = keep_weights(model, snapshots(workspace / "snapshots"), last, validate, config, ranks)
    report.last = choice["figures"]
    training = (
        earlier
        | training_facts(
            report,
            learning_rate=plan.at(plan.total_tokens).learning_rate,
            sequence_length=plan.sequence_length,
            rope_theta=earlier["rope_theta"],
        )
        | {"tokens_seen": earlier["tokens_seen"] + report.tokens, "validation_sequence_length": common_length}
        | {"last_loss": last["validation_loss"], "average_loss": choice["average_loss"]}
        | {"kept": choice["kept"], "averaged_checkpoints": choice["averaged"], "epochs": epochs}
    )
    write_checkpoint(output, model, optimizer, tokens, training, report.curve, ranks)
    write_expert_loads(output, model, held_out, config.train, ranks)
    return {"tokens_per_second": report.tokens_per_second, "training_seconds": report.seconds}


def decay_plan(config: Config, earlier: dict[str, Any]) -> Plan:
    """The whole run is decay, in one stretch or in phases, each with its mixture."""
    length = config.sequence_length or earlier["sequence_length"]
    rate = config.learning_rate or earlier["learning_rate"]
    if config.total_tokens is not None:
        total, ramp = config.total_tokens, ()
        schedule = Schedule(
            kind="wsd",
            learning_rate=rate,
            decay_tokens=total,
            decay_shape=config.decay_shape,
            final_ratio=config.final_ratio,
        )
    else:
        chain = tuple(
            Phase(tokens=phase.total_tokens, shape=phase.decay_shape, final_rate=phase.final_rate)
            for phase in config.phases
        )
        schedule = Schedule(kind="phases", learning_rate=rate, phases=chain)
        *starts, total = accumulate(phase.total_tokens for phase in config.phases)
        later = zip(starts, config.phases[1:], strict=True)
        ramp = tuple((start, phase.mixture) for start, phase in later if phase.mixture)
    return Plan(
        total_tokens=total,
        batch_tokens=config.batch_tokens or 2 * length,
        sequence_length=length,
        schedule=schedule,
        mixture_ramp=ramp,
    )


def snapshot_settings(config: Config, plan: Plan) -> TrainSettings:
    """Snapshots evenly over the last part of the decay, or of its last phase."""
    decay = config.phases[-1].total_tokens if config.phases else plan.total_tokens
    span = config.average_share * decay
    every = max(int(span / config.average_checkpoints), plan.batch_tokens)
    return config.train.model_copy(
        update={"snapshot_every_tokens": every, "snapshot_from_tokens": int(plan.total_tokens - span)}
    )


def anneal_rows(config: Config, tokens: TokenFolder, plan: Plan) -> MixtureRows:
    """The best data, some rows with facts, and some with instructions."""
    others: dict[str, tuple[RowSource, float]] = {}
    if config.needle_share:
        others["needle rows"] = NeedleRows(tokens, config.needles, seed=config.seed), config.needle_share
    if config.instruction_share:
        source = instruction_rows(
            tokens.tokenizer, config.instructions, seed=config.seed, pad_token_id=tokens.pad_token_id
        )
        others["instruction rows"] = source, config.instruction_share
    first = config.phases[0].mixture if config.phases else None
    return document_mixture(
        tokens,
        seed=config.seed,
        weights=first or config.mixture,
        packing=config.packing,
        plan=plan,
        others=others,
    )


def keep_weights(
    model: PreTrainedModel,
    files: list[Path],
    last: dict[str, float],
    validate: Validate,
    config: Config,
    ranks: Ranks,
) -> dict[str, Any]:
    """Leave the chosen weights in the model: the last ones or the average of the snapshots. The first process chooses,
    so that no two of them differ by rounding."""
    kept_files = ranks.share(files[-config.average_checkpoints :])
    last_weights = {name: tensor.clone() for name, tensor in weights(model).items()}
    set_average(model, kept_files)
    model.eval()
    with torch.no_grad(), forward_precision(config.train.precision, ranks.device):
        average = ranks.share(validate(model))
    wanted = config.keep
    if wanted == "better":
        wanted = ranks.share("average" if average["validation_loss"] < last["validation_loss"] else "last")
    if wanted == "last":
        set_weights(model, last_weights)
    return {
        "kept": wanted,
        "figures": average if wanted == "average" else last,
        "average_loss": average["validation_loss"],
        "averaged": len(kept_files),
    }


def result(figures: dict[str, float], training: dict[str, Any]) -> StageResult:
    """Counts, metrics and the comparison of last and average."""
    before, after = training["validation_loss_before"], training["validation_loss"]
    summary = (
        f"Held-out loss {before:.4f} → {after:.4f} over {training['tokens']:,} tokens.\n\n"
        f"| weights | held-out loss |\n|---|---|\n| last | {training['last_loss']:.4f} |\n"
        f"| average of {training['averaged_checkpoints']} | {training['average_loss']:.4f} |\n\n"
        f"Kept: {training['kept']}."
    )
    names = ("validation_loss", "validation_bits_per_byte", "last_loss", "average_loss")
    return StageResult(
        rows_in=training["tokens"],
        rows_out=training["tokens"],
        unit="tokens",
        metrics={"validation_loss_before": before, **{name: training[name] for name in names}, **figures},
        summary="\n\n".join([summary, *spike_sentences(training)]),
    )
