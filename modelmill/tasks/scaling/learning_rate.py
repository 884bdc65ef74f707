"""Losses of a few learning rates at some widths and budgets → the best rate of each, and a law over width and compute.

What was tried at one width or one budget only follows the recipe's rule; with more, the exponent is fitted. The power
of compute is DeepSeek's form (arXiv:2401.02954 §2.3: 0.3118 · C^-0.125), that of the width is muP's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modelmill.tasks.errors import InputError


@dataclass(frozen=True)
class RateTrial:
    """One short run: width of the model, FLOPs, peak learning rate, loss after its decay."""

    hidden_size: int
    flops: float
    learning_rate: float
    loss: float


@dataclass(frozen=True)
class BestRate:
    """The best rate at one width and budget. `inside` says that a valley was seen rather than an end of the tried
    range; loss = lowest + curvature · ln(rate / best)² near it."""

    hidden_size: int
    flops: float
    learning_rate: float
    loss: float
    curvature: float
    inside: bool

    def penalty(self, learning_rate: float) -> float:
        """Share of the loss that another rate costs, from the parabola around the best."""
        return self.curvature * np.log(learning_rate / self.learning_rate) ** 2 / self.loss


@dataclass(frozen=True)
class RateLaw:
    """learning_rate = base_rate * (width / base_width)^exponent * (flops / base_flops)^compute_exponent."""

    base_width: float
    base_flops: float
    base_rate: float
    exponent: float
    exponent_fitted: bool
    compute_exponent: float
    compute_exponent_fitted: bool
    best: tuple[BestRate, ...]

    def at(self, hidden_size: int, flops: float) -> float:
        """Peak learning rate for a model of this width that trains on this compute."""
        return (
            self.base_rate
            * (hidden_size / self.base_width) ** self.exponent
            * (flops / self.base_flops) ** self.compute_exponent
        )


def best_rate(trials: Sequence[RateTrial]) -> BestRate:
    """Vertex of a parabola in ln(rate) through the lowest loss and its two neighbours.

    When the lowest loss lies at an end of the tried rates, that rate is the answer: a parabola would extrapolate.

    Raises:
        InputError: fewer than three rates with a finite loss.
    """
    tried = sorted((trial for trial in trials if np.isfinite(trial.loss)), key=lambda trial: trial.learning_rate)
    if len(tried) < 3:
        raise InputError(
            f"found {len(tried)} learning rates with a finite loss at width {trials[0].hidden_size}; finding the best "
            "needs at least 3. Add smaller rates to learning_rates."
        )
    lowest = int(np.argmin([trial.loss for trial in tried]))
    best = tried[lowest]
    if lowest in (0, len(tried) - 1):
        return BestRate(best.hidden_size, best.flops, best.learning_rate, best.loss, 0.0, False)
    around = tried[lowest - 1 : lowest + 2]
    centre = np.log(best.learning_rate)
    a, b, c = np.polyfit(
        [np.log(trial.learning_rate) - centre for trial in around], [trial.loss for trial in around], 2
    )
    vertex, loss = float(np.exp(centre - b / (2 * a))), float(c - b**2 / (4 * a))
    return BestRate(best.hidden_size, best.flops, vertex, loss, float(a), True)


def fit_rate_law(trials: Sequence[RateTrial], width_exponent: float, compute_exponent: float = 0.0) -> RateLaw:
    """The law: an exponent is fitted in logarithms where valleys were seen at two or more widths (budgets), else given.

    Widths and budgets whose best rate lies at an end of the tried range do not take part.
    """
    places = sorted({(trial.hidden_size, trial.flops) for trial in trials})
    best = tuple(best_rate([trial for trial in trials if (trial.hidden_size, trial.flops) == at]) for at in places)
    seen = [found for found in best if found.inside]
    if not seen:
        anchor = best[-1]
        return RateLaw(
            anchor.hidden_size, anchor.flops, anchor.learning_rate,
            width_exponent, False, compute_exponent, False, best,
        )  # fmt: skip
    logs = np.log([[found.hidden_size, found.flops] for found in seen])
    centre = logs.mean(axis=0)
    fitted = _told_apart(logs - centre)
    exponents = np.where(fitted, 0.0, [width_exponent, compute_exponent])
    rates = np.log([found.learning_rate for found in seen]) - (logs - centre) @ exponents
    columns = np.column_stack([np.ones(len(seen)), (logs - centre)[:, fitted]])
    solved = np.linalg.lstsq(columns, rates, rcond=None)[0]
    exponents[fitted] = solved[1:]
    width, flops = np.exp(centre)
    return RateLaw(
        float(width), float(flops), float(np.exp(solved[0])),
        float(exponents[0]), bool(fitted[0]), float(exponents[1]), bool(fitted[1]), best,
    )  # fmt: skip


def _told_apart(centred: np.ndarray) -> np.ndarray:
    """Which of width and compute vary among the valleys, so that their exponents can be told: bool [2]."""
    varies = np.ptp(centred, axis=0) > 1e-6
    if varies.all() and np.linalg.matrix_rank(centred, tol=1e-6) < 2:
        varies[1] = False
    return varies
