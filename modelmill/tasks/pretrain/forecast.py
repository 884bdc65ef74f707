"""A stable run → the same run, and the loss that it would have had with a decay at its end (MiniCPM's branch).

warm-up, stable ──────────────┬─────────── end of pretrain (stable_loss)
                              └ decay ──── measured, dropped (decayed_loss): what the scaling fit forecasts
"""

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from modelmill.tasks.journal import Journal
from modelmill.tasks.lm.checkpoints import set_weights, weights
from modelmill.tasks.lm.data import Batches
from modelmill.tasks.lm.engine import Validate, train
from modelmill.tasks.lm.optim import moments, set_moments
from modelmill.tasks.lm.parallel.ranks import Ranks
from modelmill.tasks.lm.plan import Plan
from modelmill.tasks.lm.report import TrainReport
from modelmill.tasks.pretrain.config import Config


def train_with_branch(
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    plan: Plan,
    batches: Batches,
    config: Config,
    *,
    branch_share: float | None,
    workspace: Path,
    journal: Journal,
    validate: Validate,
    ranks: Ranks,
) -> tuple[TrainReport, float | None]:
    """Train the plan; with `branch_share`, also the held-out loss of a branch that decays over its last share.

    Branch and run see the same batches, so that both losses are after the same tokens. The branch comes first; then
    model and optimiser are again what they were.
    """

    def part(plan: Plan, name: str, start: int = 0, end: int | None = None) -> TrainReport:
        return train(
            model,
            optimizer,
            plan,
            batches,
            config.train,
            clip_norm=config.optimizer.clip_norm,
            workspace=workspace / name,
            journal=journal,
            label="pretrain" if name != "branch" else "forecast branch",
            validate=validate,
            start_tokens=start,
            end_tokens=end,
            ranks=ranks,
        )

    if branch_share is None:
        return part(plan, "run"), None
    fork = branch_start(plan, branch_share)
    before = part(plan, "run", end=fork)
    trunk, trunk_moments = _copies(weights(model)), _copies(moments(optimizer, model))
    decay = plan.schedule.model_copy(update={"decay_tokens": plan.total_tokens - fork})
    branch = part(plan.model_copy(update={"schedule": decay}), "branch", start=fork)
    set_weights(model, trunk)
    set_moments(optimizer, model, trunk_moments)
    after = part(plan, "rest", start=fork)
    trained = sum(each.tokens_per_second * each.seconds for each in (before, branch, after))
    after.curve = before.curve + after.curve
    after.first = before.first
    after.seconds += before.seconds + branch.seconds
    after.tokens_per_second = trained / after.seconds if after.seconds else 0.0
    return after, branch.last["validation_loss"]


def _copies(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def branch_start(plan: Plan, share: float) -> int:
    """Tokens at the end of the step after which the last `share` of the run begins."""
    timeline = plan.timeline()
    return int(timeline.tokens(int(timeline.steps((1 - share) * plan.total_tokens))))


def forecast_facts(
    report: TrainReport, decayed: float | None, predicted: float | None, interval: list[float] | None
) -> dict[str, Any]:
    """What training.json says about the forecast; a run that decays itself is compared as it ended."""
    stable = report.last["validation_loss"]
    measured = stable if decayed is None else decayed
    facts: dict[str, Any] = {"stable_loss": stable, "decayed_loss": measured}
    if predicted is None:
        return facts
    inside = None if interval is None else interval[0] <= measured <= interval[1]
    return facts | {
        "forecast": predicted,
        "forecast_interval": interval,
        "forecast_error": measured / predicted - 1,
        "forecast_inside_interval": inside,
    }
