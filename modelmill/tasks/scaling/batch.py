"""Losses of one shape at several batch sizes and token counts → the best batch as a power of compute and of the loss.

By compute (DeepSeek, arXiv:2401.02954 §2.3): at each token count, the valley of the loss over ln(batch). By loss
(MiniCPM, arXiv:2404.06395 §3.2): at each loss, the valley of the tokens that reach it over ln(batch). Both laws come
from the same runs; the learning rate follows the root of the batch (Malladi et al. 2022, for Adam).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modelmill.tasks.scaling.isoflop import BudgetLosses, IsoFlop, fit_isoflop

_LEVELS = 4  # losses at which the tokens to reach them are compared


@dataclass(frozen=True)
class BatchTrial:
    """One decayed run: tokens a step, tokens in all, FLOPs, loss."""

    batch_tokens: int
    tokens: int
    flops: float
    loss: float


@dataclass(frozen=True)
class BatchLaws:
    """Valleys over ln(batch), and the power laws of their bottoms (None with fewer than two valleys).

    by_compute: losses at equal tokens; its `parameters_law` is batch(FLOPs). by_loss: tokens to reach a loss; its
    `parameters_law` is batch(loss). None: the runs reach no common loss.
    """

    curves_by_compute: tuple[BudgetLosses, ...]
    by_compute: IsoFlop
    curves_by_loss: tuple[BudgetLosses, ...]
    by_loss: IsoFlop | None

    def at(self, flops: float) -> float | None:
        """Best tokens a step for this compute; none where no law was found."""
        law = self.by_compute.parameters_law
        return law.at(flops) if law else None


def scaled_rate(learning_rate: float, batch_tokens: float, base_batch_tokens: float) -> float:
    """The rate for another batch: Adam's follows the root of the batch."""
    return learning_rate * (batch_tokens / base_batch_tokens) ** 0.5


def fit_batch_laws(trials: Sequence[BatchTrial], seed: int = 0) -> BatchLaws:
    """Fit both laws.

    Raises:
        InputError: fewer than three batch sizes.
    """
    counts = sorted({trial.flops for trial in trials})
    by_compute = [
        _curve(flops, [(trial.batch_tokens, trial.loss) for trial in trials if trial.flops == flops])
        for flops in counts
    ]
    by_loss = _curves_by_loss(trials)
    return BatchLaws(
        tuple(by_compute),
        fit_isoflop(by_compute, seed=seed),
        tuple(by_loss),
        fit_isoflop(by_loss, seed=seed) if by_loss else None,
    )


def _curves_by_loss(trials: Sequence[BatchTrial]) -> list[BudgetLosses]:
    """At a few losses that every batch size passes through: the tokens each needs, interpolated in logarithms."""
    paths = {
        batch: sorted((trial.loss, np.log(trial.tokens)) for trial in trials if trial.batch_tokens == batch)
        for batch in sorted({trial.batch_tokens for trial in trials})
    }
    low, high = max(path[0][0] for path in paths.values()), min(path[-1][0] for path in paths.values())
    if low >= high:
        return []
    return [
        _curve(level, [(batch, _tokens_at(level, path)) for batch, path in paths.items()])
        for level in np.linspace(low, high, _LEVELS).tolist()
    ]


def _tokens_at(level: float, path: Sequence[tuple[float, float]]) -> float:
    """Tokens at which a path of (loss, ln tokens), ascending in loss, passes a loss."""
    losses, logs = zip(*path, strict=True)
    return float(np.exp(np.interp(level, losses, logs)))


def _curve(at: float, points: Sequence[tuple[int, float]]) -> BudgetLosses:
    batches, values = zip(*sorted(points), strict=True)
    return BudgetLosses(at, tuple(map(float, batches)), values)
