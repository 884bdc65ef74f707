"""Proxies' scores on a suite → accuracy at a compute that nobody has spent, in two steps (Llama 3 §3.2.1).

First nats per character of the right answers, linear in log10 of the FLOPs, through the best run of each budget. Then
accuracy = chance + (1 − chance) / (1 + exp(k (nll − middle))) through all runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares
from scipy.stats import t as student

from modelmill.tasks.errors import InputError
from modelmill.tasks.scaling.laws import Interval


@dataclass(frozen=True)
class SuiteRun:
    """One decayed run: FLOPs, nats per character of the right answers, share of items answered right."""

    flops: float
    answer_nll: float
    accuracy: float


@dataclass(frozen=True)
class TwoSteps:
    """Both fits. noise: standard deviation of the nll around its line; told: some proxy beats chance clearly."""

    intercept: float
    slope: float
    noise: float
    log_flops: tuple[float, ...]
    chance: float
    steepness: float
    middle: float
    told: bool

    def answer_nll(self, flops: float, level: float = 0.95) -> Interval:
        """Forecast nats per character, with the interval of one new run (Student's t over the line's residuals)."""
        at, seen = np.log10(flops), np.array(self.log_flops)
        value = self.intercept + self.slope * at
        spread = 1 + 1 / len(seen) + (at - seen.mean()) ** 2 / np.sum((seen - seen.mean()) ** 2)
        half = float(student.ppf((1 + level) / 2, len(seen) - 2) * self.noise * np.sqrt(spread))
        return Interval(float(value), float(value) - half, float(value) + half)

    def accuracy(self, flops: float, level: float = 0.95) -> Interval:
        """Forecast accuracy; its interval is that of the nll."""
        nll = self.answer_nll(flops, level)
        value, high, low = (float(self.sigmoid(each)) for each in (nll.value, nll.low, nll.high))
        return Interval(value, low, high)

    def sigmoid(self, nll: float | np.ndarray) -> np.ndarray:
        """Accuracy at this many nats per character."""
        exponent = np.clip(self.steepness * (np.asarray(nll) - self.middle), -500, 500)
        return self.chance + (1 - self.chance) / (1 + np.exp(exponent))


def fit_two_steps(runs: Sequence[SuiteRun], chance: float, num_items: int) -> TwoSteps:
    """Fit both steps.

    Raises:
        InputError: fewer than three budgets.
    """
    budgets = sorted({run.flops for run in runs})
    if len(budgets) < 3:
        raise InputError(f"found {len(budgets)} budgets; the line through them needs at least 3. Raise num_budgets.")
    best = [min(run.answer_nll for run in runs if run.flops == flops) for flops in budgets]
    logs = np.log10(budgets)
    slope, intercept = np.polyfit(logs, best, 1)
    residuals = np.array(best) - (intercept + slope * logs)
    noise = float(np.sqrt(np.sum(residuals**2) / (len(budgets) - 2)))
    steepness, middle = _fit_sigmoid(runs, chance)
    told = max(run.accuracy for run in runs) > chance + 2 * np.sqrt(chance * (1 - chance) / num_items)
    return TwoSteps(
        float(intercept), float(slope), noise, tuple(map(float, logs)), chance, steepness, middle, bool(told)
    )


def _fit_sigmoid(runs: Sequence[SuiteRun], chance: float) -> tuple[float, float]:
    """(k, middle); the lower end is chance and the upper 1, which weak models cannot tell."""
    nll, measured = np.array([run.answer_nll for run in runs]), np.array([run.accuracy for run in runs])

    def residual(numbers: np.ndarray) -> np.ndarray:
        exponent = np.clip(np.exp(numbers[0]) * (nll - numbers[1]), -500, 500)
        return chance + (1 - chance) / (1 + np.exp(exponent)) - measured

    starts = [(np.log(k), middle) for k in (1.0, 4.0, 16.0) for middle in (nll.min() / 2, nll.min(), nll.mean())]
    bounds = (np.log(0.05), -10 * nll.max()), (np.log(200.0), 10 * nll.max())
    fits = [least_squares(residual, start, bounds=bounds, x_scale="jac") for start in starts]
    found = min(fits, key=lambda fit: fit.cost).x
    return float(np.exp(found[0])), float(found[1])
