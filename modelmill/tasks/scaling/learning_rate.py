"""Losses of a few learning rates at one or more widths → the best rate at each, and a law over widths.

With one width only the best rate there is measured and the exponent is the recipe's rule; with more, both are fitted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modelmill.tasks.errors import InputError


@dataclass(frozen=True)
class RateTrial:
    """One short run: width of the model, peak learning rate, loss after its decay."""

    hidden_size: int
    learning_rate: float
    loss: float


@dataclass(frozen=True)
class BestRate:
    """The best rate at one width. `inside` says that a valley was seen rather than an end of the tried range."""

    hidden_size: int
    learning_rate: float
    loss: float
    inside: bool


@dataclass(frozen=True)
class RateLaw:
    """learning_rate(width) = base_rate * (width / base_width)^exponent."""

    base_width: float
    base_rate: float
    exponent: float
    exponent_fitted: bool
    best: tuple[BestRate, ...]

    def at(self, hidden_size: int) -> float:
        """Peak learning rate for a model of this width."""
        return self.base_rate * (hidden_size / self.base_width) ** self.exponent


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
    width = tried[lowest].hidden_size
    if lowest in (0, len(tried) - 1):
        return BestRate(width, tried[lowest].learning_rate, tried[lowest].loss, False)
    around = tried[lowest - 1 : lowest + 2]
    centre = np.log(tried[lowest].learning_rate)
    a, b, c = np.polyfit(
        [np.log(trial.learning_rate) - centre for trial in around], [trial.loss for trial in around], 2
    )
    return BestRate(width, float(np.exp(centre - b / (2 * a))), float(c - b**2 / (4 * a)), True)


def fit_rate_law(trials: Sequence[RateTrial], default_exponent: float) -> RateLaw:
    """The law over widths: exponent by least squares in log-log with two or more widths, else `default_exponent`.

    Widths whose best rate lies at an end of the tried range do not take part in the exponent.
    """
    widths = sorted({trial.hidden_size for trial in trials})
    best = tuple(best_rate([trial for trial in trials if trial.hidden_size == width]) for width in widths)
    seen = [found for found in best if found.inside]
    if len(seen) < 2:
        anchor = seen[0] if seen else best[-1]
        return RateLaw(anchor.hidden_size, anchor.learning_rate, default_exponent, False, best)
    log_widths = np.log([found.hidden_size for found in seen])
    exponent, offset = np.polyfit(log_widths - log_widths.mean(), np.log([found.learning_rate for found in seen]), 1)
    return RateLaw(float(np.exp(log_widths.mean())), float(np.exp(offset)), float(exponent), True, best)
