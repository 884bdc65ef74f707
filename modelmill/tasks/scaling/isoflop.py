"""Measured losses by FLOP budget → a parabola in log N per budget, its vertex, and the power law of the optimum.

Llama 3's method: per budget, L_C(N) = a (ln N)^2 + b ln N + c; the vertex is that budget's compute-optimal size, and
the optima of all budgets lie on N*(C) = coefficient * C^exponent.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modelmill.tasks.errors import InputError
from modelmill.tasks.scaling.laws import FLOPS_PER_PARAMETER_TOKEN, Array, Interval


@dataclass(frozen=True)
class BudgetLosses:
    """The runs of one FLOP budget: sizes (ascending) and their losses."""

    flops: float
    parameters: tuple[float, ...]
    losses: tuple[float, ...]


@dataclass(frozen=True)
class Parabola:
    """Loss against size at one budget. `a`, `b`, `c` belong to ln(N / unit); `optimum` is None when there is no valley.

    inside: the vertex lies between the smallest and the largest size that was run: measured, not extrapolated.
    """

    flops: float
    unit: float
    a: float
    b: float
    c: float
    optimum: Interval | None
    loss: float | None
    inside: bool

    def at(self, parameters: Array) -> Array:
        """Loss of the parabola at each size."""
        x = np.log(parameters / self.unit)
        return self.a * x**2 + self.b * x + self.c


@dataclass(frozen=True)
class PowerLaw:
    """y = coefficient * x^exponent."""

    coefficient: float
    exponent: float
    exponent_low: float
    exponent_high: float

    def at(self, x: float) -> float:
        """The law's value at x."""
        return self.coefficient * x**self.exponent


@dataclass(frozen=True)
class IsoFlop:
    """All parabolas, and how the optimal size and tokens grow with compute (None with fewer than two valleys)."""

    parabolas: tuple[Parabola, ...]
    parameters_law: PowerLaw | None
    tokens_law: PowerLaw | None


def fit_isoflop(
    budgets: Sequence[BudgetLosses],
    noise: float | None = None,
    num_copies: int = 400,
    seed: int = 0,
    level: float = 0.95,
) -> IsoFlop:
    """Fit one parabola per budget and a power law through the vertices that lie inside the measured sizes.

    noise: relative standard deviation of one loss, for the intervals; by default pooled from the parabolas' own
    residuals, which needs more than three sizes a budget.

    Raises:
        InputError: a budget with fewer than three sizes.
    """
    for budget in budgets:
        if len(set(budget.parameters)) < 3:
            raise InputError(
                f"found {len(set(budget.parameters))} sizes at {budget.flops:.3g} FLOPs; a parabola needs at least 3. "
                "Add sizes to the sweep, or drop this budget."
            )
    spread = _pooled_noise(budgets) if noise is None else noise
    generator = np.random.default_rng(seed)
    parabolas, vertices = [], []
    for budget in budgets:
        parabola, drawn = _fit_parabola(budget, spread, num_copies, level, generator)
        parabolas.append(parabola)
        vertices.append(drawn)
    growing = [index for index, parabola in enumerate(parabolas) if parabola.inside]
    if len({parabolas[index].flops for index in growing}) < 2:
        return IsoFlop(tuple(parabolas), None, None)
    flops = np.array([parabolas[index].flops for index in growing])
    optima = np.array([_value(parabolas[index].optimum) for index in growing])
    copies = np.stack([vertices[index] for index in growing])
    area = flops / FLOPS_PER_PARAMETER_TOKEN
    return IsoFlop(
        tuple(parabolas),
        _power_law(flops, optima, copies, level),
        _power_law(flops, area / optima, area[:, None] / copies, level),
    )


def _fit_parabola(
    budget: BudgetLosses, noise: float, num_copies: int, level: float, generator: np.random.Generator
) -> tuple[Parabola, Array]:
    """The parabola, and the vertices of copies drawn with the given relative noise (NaN where a copy has no valley)."""
    sizes, losses = np.array(budget.parameters, np.float64), np.array(budget.losses, np.float64)
    unit = float(np.exp(np.log(sizes).mean()))
    matrix = np.vander(np.log(sizes / unit), 3)
    (a, b, c), *_ = np.linalg.lstsq(matrix, losses, rcond=None)
    drawn = losses[:, None] * (1 + noise * generator.standard_normal((len(losses), num_copies)))
    coefficients, *_ = np.linalg.lstsq(matrix, drawn, rcond=None)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        # Vertices thousands of times outside the sweep say only "no valley here"; the cut keeps exp() finite.
        vertices = unit * np.exp(np.clip(-coefficients[1] / (2 * coefficients[0]), -20, 20))
    vertices = np.where(coefficients[0] > 0, vertices, np.nan)
    if a <= 0:
        return Parabola(budget.flops, unit, float(a), float(b), float(c), None, None, False), vertices
    optimum = float(unit * np.exp(np.clip(-b / (2 * a), -20, 20)))
    tail = 50 * (1 - level)
    found = vertices[np.isfinite(vertices)]
    low, high = np.percentile(found, [tail, 100 - tail]) if len(found) else (np.nan, np.nan)
    inside = bool(sizes.min() <= optimum <= sizes.max())
    interval = Interval(optimum, float(low), float(high))
    return Parabola(
        budget.flops, unit, float(a), float(b), float(c), interval, float(c - b**2 / (4 * a)), inside
    ), vertices


def _pooled_noise(budgets: Sequence[BudgetLosses]) -> float:
    """Relative standard deviation of the losses around their parabolas, over all budgets; 0 without a fourth size."""
    squares, freedom = 0.0, 0
    for budget in budgets:
        losses = np.array(budget.losses, np.float64)
        matrix = np.vander(np.log(np.array(budget.parameters) / budget.parameters[0]), 3)
        fitted = matrix @ np.linalg.lstsq(matrix, losses, rcond=None)[0]
        squares += float(np.sum((losses / fitted - 1) ** 2))
        freedom += len(losses) - 3
    return float(np.sqrt(squares / freedom)) if freedom > 0 else 0.0


def _power_law(x: Array, y: Array, copies: Array, level: float) -> PowerLaw:
    """Least squares in log-log; the exponent's interval from the columns of `copies` that are whole."""
    matrix = np.vander(np.log(x), 2)
    exponent, intercept = np.linalg.lstsq(matrix, np.log(y), rcond=None)[0]
    whole = copies[:, np.isfinite(copies).all(axis=0)]
    tail = 50 * (1 - level)
    exponents = np.linalg.lstsq(matrix, np.log(whole), rcond=None)[0][0] if whole.size else np.array([np.nan])
    low, high = np.percentile(exponents, [tail, 100 - tail])
    return PowerLaw(float(np.exp(intercept)), float(exponent), float(low), float(high))


def _value(interval: Interval | None) -> float:
    assert interval is not None
    return interval.value
