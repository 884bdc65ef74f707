"""Model, optimiser, plan and batches → a trained model and its curve. The one training loop of every stage.

    for step: plan(tokens) → batch(step) → loss → backward → clip → optimiser step → router bias → log, validate, save

A run can be killed at any moment: called again with the same arguments it continues from the newest training state
in its workspace, and ends with the same bits. One whose loss spikes goes back and leaves the batches concerned out.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from modelmill.tasks.journal import Journal
from modelmill.tasks.lm.checkpoints import save_snapshot
from modelmill.tasks.lm.compilation import open_compilation
from modelmill.tasks.lm.data import Batches, TrainingBatch
from modelmill.tasks.lm.losses import Measure, summed_loss
from modelmill.tasks.lm.model import measure_batch, set_rope_theta
from modelmill.tasks.lm.moe import Routers, open_routers
from modelmill.tasks.lm.optim import set_learning_rate
from modelmill.tasks.lm.parallel.clip import clip_gradients
from modelmill.tasks.lm.parallel.ranks import Ranks
from modelmill.tasks.lm.parallel.states import States, open_states
from modelmill.tasks.lm.pieces import Pieces, open_pieces
from modelmill.tasks.lm.pipeline.run import pipeline_of
from modelmill.tasks.lm.plan import Plan, StepPoint
from modelmill.tasks.lm.precision import forward_precision, open_products
from modelmill.tasks.lm.recompute import open_recomputation
from modelmill.tasks.lm.report import TrainReport
from modelmill.tasks.lm.settings import TrainSettings
from modelmill.tasks.lm.spikes import Spike, SpikeWatch
from modelmill.tasks.lm.stopping import stop_signal
from modelmill.tasks.lm.watchdog import open_watchdog

Validate = Callable[[PreTrainedModel], dict[str, float]]
"""Held-out figures of a model; called without gradients, in evaluation mode."""


@dataclass
class _Run:
    """State of one call of `train`."""

    model: PreTrainedModel
    optimizer: torch.optim.Optimizer
    settings: TrainSettings
    workspace: Path | None
    journal: Journal | None
    label: str
    total_tokens: int
    plan_tokens: int
    device: str
    ranks: Ranks
    states: States | None
    spikes: SpikeWatch
    curve: list[dict[str, Any]] = field(default_factory=list)
    first: dict[str, float] = field(default_factory=dict)
    measured: list[dict[str, Tensor]] = field(default_factory=list)
    seconds: float = 0.0
    trained_tokens: int = 0
    steps: int = 0
    tokens: int = 0
    learning_rate: float = 0.0
    finished: bool = False


def train(
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    plan: Plan,
    batches: Batches,
    settings: TrainSettings,
    *,
    clip_norm: float = 1.0,
    workspace: Path | None = None,
    journal: Journal | None = None,
    label: str = "train",
    objective: Measure = summed_loss,
    validate: Validate | None = None,
    start_tokens: int = 0,
    end_tokens: int | None = None,
    ranks: Ranks | None = None,
) -> TrainReport:
    """Run the plan, or the part of it from `start_tokens` to `end_tokens` (so that a decay can be branched off), or
    what is left of that after the workspace's newest state. Validation is at the plan's ends, not at a part's.

    On several processes each calls it with its `ranks` and its shards of the model; the report is the same on all.

    Raises:
        MillError: the loss is not a number any more, or rises too often, and going back does not help.
        SystemExit, KeyboardInterrupt: told to stop; the state is saved, and the same call continues.
    """
    ranks = ranks or Ranks()
    device = str(next(model.parameters()).device)
    total_tokens = end_tokens or plan.total_tokens
    with open_states(workspace, model, optimizer, settings, ranks) as states:
        spikes = SpikeWatch(settings.spikes, workspace)
        run = _Run(model, optimizer, settings, workspace, journal if ranks.is_first else None, label, total_tokens,
                   plan.total_tokens, device, ranks, states, spikes)  # fmt: skip
        resumed_at = _resume(run)
        num_pieces = settings.num_pieces if device == "cpu" and ranks.alone else 1
        with (
            open_pieces(model, num_pieces, settings.num_threads) as pieces,
            open_products(pieces.models, settings.precision),
            open_compilation(pieces.models, settings.compile),
            open_recomputation(pieces.models, settings.activation_checkpointing),
            open_routers(pieces.models, settings.balance, ranks) as routers,
            open_watchdog(settings.hang_seconds) as watchdog,
            stop_signal() as stop,
        ):
            if validate and not run.first and start_tokens == 0:
                run.first = _validate(run, validate)
            if not resumed_at:
                _save(run)
            points = plan.points(resumed_at, start_tokens, end_tokens)
            while point := next(points, None):
                run.steps, run.tokens = point.step + 1, point.tokens + point.num_tokens
                if point.rope_theta is not None:
                    set_rope_theta(model, point.rope_theta)
                watchdog.beat(point.step, patient=point.step == resumed_at)
                if not run.spikes.skips(point.step):
                    batch = ranks.own_labels(batches.batch(ranks.own_rows(point)), point)
                    _step(run, pieces, routers, batch, point, objective, clip_norm)
                    if spike := run.spikes.judge(point, *_loss_and_norm(run)):
                        points = plan.points(_roll_back(run, spike), start_tokens, end_tokens)
                        continue
                watchdog.beat(point.step, "after the step", patient=True)
                _after_step(run, point, validate)
                if ranks.sum(len(stop)):
                    _save(run)
                    raise stop[0] if stop else SystemExit(143)
            last = _finish(run, validate if total_tokens == plan.total_tokens else None)
    losses = [line["loss"] for line in run.curve if "loss" in line]
    return TrainReport(
        steps=run.steps,
        tokens=run.tokens,
        loss=losses[-1] if losses else math.nan,
        curve=run.spikes.marked(run.curve),
        first=run.first,
        last=last,
        tokens_per_second=run.trained_tokens / run.seconds if run.seconds else 0.0,
        seconds=run.seconds,
        resumed_at_step=resumed_at,
    )


def _step(
    run: _Run,
    pieces: Pieces,
    routers: Routers,
    batch: TrainingBatch,
    point: StepPoint,
    objective: Measure,
    clip_norm: float,
) -> None:
    """One optimiser step on one batch."""
    started = time.perf_counter()
    for replica in pieces.models:
        replica.train()
    run.learning_rate = point.learning_rate
    set_learning_rate(run.optimizer, point.learning_rate)
    weight = max(run.ranks.sum(batch.weight) / run.ranks.layout.pipeline, 1.0)
    routers.begin_step(point.num_rows)

    def backward(model: PreTrainedModel, piece: TrainingBatch) -> Tensor:
        total = torch.zeros((), device=run.device)
        for part in piece.split(run.settings.micro_batch_rows or point.num_rows):
            with forward_precision(run.settings.precision, run.device):
                loss = measure_batch(model, part.to(run.device), objective) / weight
            loss.backward()
            total += loss.detach()
        return total

    if pipeline := pipeline_of(run.model):
        total = pipeline.backward(batch.to(run.device), weight, objective)
    else:
        total = pieces.backward(batch, point.num_rows, backward)
    total = run.ranks.sum_tensor(total)
    norm = clip_gradients(run.model, clip_norm, run.ranks)
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    figures = routers.end_step(run.tokens / run.plan_tokens)
    run.measured.append({"loss": total, "grad_norm": norm} | figures)
    run.trained_tokens += batch.num_tokens * run.ranks.layout.data_size
    run.seconds += time.perf_counter() - started


def _after_step(run: _Run, point: StepPoint, validate: Validate | None) -> None:
    settings = run.settings
    if run.steps % settings.log_every_steps == 0:
        _log(run)
    if validate and _crosses(settings.validate_every_tokens, point) and run.tokens < run.total_tokens:
        run.curve.append({"step": run.steps, "tokens": run.tokens} | _validate(run, validate))
    wanted = run.tokens >= settings.snapshot_from_tokens and _crosses(settings.snapshot_every_tokens, point)
    if run.workspace and wanted:
        save_snapshot(run.workspace / "snapshots", run.steps, run.model, run.ranks)
    if run.steps % settings.checkpoint_every_steps == 0:
        _save(run)


def _finish(run: _Run, validate: Validate | None) -> dict[str, float]:
    """Log what is left, validate, save; once only, however often a finished run is called again."""
    _log(run)
    last = _validate(run, validate) if validate else {}
    if not run.finished:
        run.finished = True
        run.curve.extend([{"step": run.steps, "tokens": run.tokens} | last] if last else [])
        _save(run)
    return last


def _crosses(every: int | None, point: StepPoint) -> bool:
    """Whether a multiple of `every` tokens lies within the step."""
    return every is not None and (point.tokens + point.num_tokens) // every > point.tokens // every


def _log(run: _Run) -> None:
    """Turn the steps since the last line into one line of the curve and one of the journal."""
    if not run.measured:
        return
    means = {name: torch.stack([step[name] for step in run.measured]).mean(0).tolist() for name in run.measured[0]}
    line = {"tokens": run.tokens} | means | {"learning_rate": run.learning_rate}
    run.curve.append({"step": run.steps} | line)
    run.measured.clear()
    if run.journal:
        run.journal.progress(run.label, run.tokens, run.total_tokens, "tokens")
        numbers = {name: float(value) for name, value in line.items() if not isinstance(value, list)}
        run.journal.metrics(run.steps, numbers | {"tokens_per_second": run.trained_tokens / run.seconds})


def _loss_and_norm(run: _Run) -> tuple[float, float]:
    """Of the newest step."""
    return float(run.measured[-1]["loss"]), float(run.measured[-1]["grad_norm"])


def _roll_back(run: _Run, spike: Spike) -> int:
    """Go back to the newest state from before the spike, leave its batches out; returns the steps done by then."""
    run.spikes.check(spike, run.label)
    assert run.states
    run.states.remove_after(spike.first_skipped)
    run.spikes.record(spike, write=run.ranks.is_first)
    steps = _resume(run)
    if run.journal:
        run.journal.note(
            f"{run.label}: {spike}; went back to step {steps} and leaves out the batches of steps "
            f"{spike.first_skipped} to {spike.last_skipped}"
        )
    return steps


@torch.no_grad()
def _validate(run: _Run, validate: Validate) -> dict[str, float]:
    run.model.eval()
    with forward_precision(run.settings.precision, run.device):
        values = validate(run.model)
    if run.journal:
        run.journal.metrics(run.steps, values)
    return values


def _resume(run: _Run) -> int:
    """Continue from the newest training state; returns the number of steps that it has done."""
    progress = run.states.load_newest() if run.states else None
    if progress is None:
        return 0
    run.curve, run.first = progress["curve"], progress["first"]
    run.steps, run.tokens, run.learning_rate = progress["step"], progress["tokens"], progress["learning_rate"]
    run.finished = progress["finished"]
    run.measured = [
        {name: torch.tensor(value, device=run.device) for name, value in step.items()} for step in progress["measured"]
    ]
    run.spikes.restore(progress["spikes"])
    if run.journal and run.steps:
        run.journal.note(f"{run.label}: continued from step {run.steps}")
    return run.steps


def _save(run: _Run) -> None:
    if run.states is None:
        return
    progress = {
        "tokens": run.tokens,
        "learning_rate": run.learning_rate,
        "finished": run.finished,
        "curve": run.curve,
        "first": run.first,
        "measured": [{name: value.tolist() for name, value in step.items()} for step in run.measured],
        "spikes": run.spikes.state,
    }
    run.states.save(run.steps, progress)
