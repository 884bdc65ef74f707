"""Measured losses at (parameters, tokens) → the law L(N, D) = E + A / N^alpha + B / D^beta, with intervals.

The law is the parametric form of Hoffmann et al. (2022) and of MiniCPM's wind tunnel. It is linear in E, A and B once
alpha and beta are known, so only two numbers are searched for (variable projection, Golub and Pereyra 1973).
"""

import itertools
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from modelmill.tasks.errors import InputError

Array = npt.NDArray[np.float64]

FLOPS_PER_PARAMETER_TOKEN = 6.0  # forward 2, backward 4: C = 6 N D
EXPONENT_RANGE = (0.01, 3.0)
_GRID = np.geomspace(0.03, 2.4, 14)
_NUM_FREE = 5  # E, A, alpha, B, beta
_HUBER_WIDTH = 1.345  # 95 % efficiency under Gaussian noise
_SUBSETS = [list(s) for size in (3, 2, 1) for s in itertools.combinations(range(3), size)]


@dataclass(frozen=True)
class LossLaw:
    """L(N, D) = E + A / N^alpha + B / D^beta; loss in nats per token."""

    E: float
    A: float
    alpha: float
    B: float
    beta: float

    def loss(self, parameters: npt.ArrayLike, tokens: npt.ArrayLike) -> Array:
        """Predicted loss at N parameters after D tokens; both broadcast."""
        count, seen = np.asarray(parameters, np.float64), np.asarray(tokens, np.float64)
        return self.E + self.A * count**-self.alpha + self.B * seen**-self.beta

    def compute_optimal(self, flops: float) -> tuple[float, float]:
        """(N*, D*) of the lowest loss with 6 N D = flops.

        From dL/dN = 0 on the curve: N* = (alpha A / (beta B))^(1/(alpha+beta)) (C/6)^(beta/(alpha+beta)).
        """
        if self.A <= 0 or self.B <= 0:
            raise InputError(
                f"the fitted law has A = {self.A:g} and B = {self.B:g}, so it has no compute-optimal size: the "
                "measured losses do not fall with size or with tokens. Widen the sweep's range of that one."
            )
        area, total = flops / FLOPS_PER_PARAMETER_TOKEN, self.alpha + self.beta
        parameters = (self.alpha * self.A / (self.beta * self.B)) ** (1 / total) * area ** (self.beta / total)
        return parameters, area / parameters


@dataclass(frozen=True)
class Interval:
    """A value with the bounds of its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class FittedLaw:
    """The law, its bootstrap copies, and how far it is from what was measured."""

    law: LossLaw
    copies: tuple[LossLaw, ...]
    residuals: Array
    """Measured / fitted − 1, one a run."""

    @property
    def freedom(self) -> int:
        """Runs beyond the five fitted numbers."""
        return max(1, len(self.residuals) - _NUM_FREE)

    @property
    def noise(self) -> float:
        """Standard deviation of the relative residuals, corrected for the five fitted numbers."""
        return float(np.sqrt(np.sum(self.residuals**2) / self.freedom))

    def intervals(self, level: float = 0.95) -> dict[str, Interval]:
        """Percentile interval of each of the law's numbers."""
        return {
            name: Interval(value, *_bounds(np.array([getattr(copy, name) for copy in self.copies]), level))
            for name, value in asdict(self.law).items()
        }

    def forecast(self, parameters: float, tokens: float, level: float = 0.95, seed: int = 0) -> Interval:
        """Predicted loss of one new run, with the interval in which its measurement should fall.

        The interval holds both the law's uncertainty (its copies) and one run's own noise.
        """
        predicted = np.array([copy.loss(parameters, tokens) for copy in self.copies])
        drawn = predicted * (1 + self.noise * np.random.default_rng(seed).standard_t(self.freedom, len(predicted)))
        return Interval(float(self.law.loss(parameters, tokens)), *_bounds(drawn, level))


def fit_loss_law(
    parameters: npt.ArrayLike, tokens: npt.ArrayLike, losses: npt.ArrayLike, robust: bool = False
) -> LossLaw:
    """Fit the law to runs by least squares of relative errors; E, A and B are not negative.

    robust: give runs that lie far from the law less weight (Huber, by iterated re-weighting).

    Raises:
        InputError: fewer than six runs, three sizes or three token counts, or a loss that is not a positive number.
    """
    counts, seen, measured = _checked(parameters, tokens, losses)
    weights = np.ones_like(measured)
    law = _fit_weighted(counts, seen, measured, weights)
    for _ in range(20 if robust else 0):
        weights = _huber_weights(measured / law.loss(counts, seen) - 1)
        previous, law = law, _fit_weighted(counts, seen, measured, weights, start=(law.alpha, law.beta))
        if np.allclose(list(asdict(previous).values()), list(asdict(law).values()), rtol=1e-9):
            break
    return law


def fit_with_bootstrap(
    parameters: npt.ArrayLike,
    tokens: npt.ArrayLike,
    losses: npt.ArrayLike,
    num_copies: int = 200,
    seed: int = 0,
    robust: bool = False,
) -> FittedLaw:
    """Fit the law, then refit it to `num_copies` sets of losses redrawn from its own residuals.

    Residuals are redrawn rather than runs: a sweep is a small designed grid; leaving out a corner changes its design.
    """
    counts, seen, measured = _checked(parameters, tokens, losses)
    law = fit_loss_law(counts, seen, measured, robust=robust)
    fitted = law.loss(counts, seen)
    residuals = measured / fitted - 1
    generator = np.random.default_rng(seed)
    freedom = max(1, len(residuals) - _NUM_FREE)
    standard = (residuals - residuals.mean()) * np.sqrt(len(residuals) / freedom)
    copies = []
    for _ in range(num_copies):
        # A small grid knows its own noise badly: each copy draws how large it was (scaled inverse chi-square).
        size = np.sqrt(freedom / generator.chisquare(freedom))
        redrawn = fitted * (1 + size * generator.choice(standard, len(standard)))
        copies.append(_fit_weighted(counts, seen, redrawn, np.ones_like(measured), start=(law.alpha, law.beta)))
    return FittedLaw(law, tuple(copies), residuals)


def _checked(parameters: npt.ArrayLike, tokens: npt.ArrayLike, losses: npt.ArrayLike) -> tuple[Array, Array, Array]:
    counts, seen, measured = (np.asarray(values, np.float64).ravel() for values in (parameters, tokens, losses))
    sizes, lengths = len(np.unique(counts)), len(np.unique(seen))
    if len(measured) <= _NUM_FREE or sizes < 3 or lengths < 3:
        raise InputError(
            f"found {len(measured)} runs of {sizes} sizes and {lengths} token counts; fitting L(N, D) needs at least "
            f"{_NUM_FREE + 1} runs, 3 sizes and 3 token counts. Add sizes or budgets to the sweep."
        )
    for name, values in (("loss", measured), ("parameter count", counts), ("token count", seen)):
        bad = values[~(np.isfinite(values) & (values > 0))]
        if len(bad):
            raise InputError(
                f"found a {name} of {bad[0]} among the runs; each must be a positive number. "
                "A loss that is not finite means a proxy run diverged: lower the sweep's learning rates."
            )
    return counts, seen, measured


@dataclass(frozen=True)
class _Projection:
    """The weighted problem with E, A and B solved for: rows are runs, N and D are in units of their geometric means."""

    logs: Array  # [runs, 2]: ln N, ln D
    scale: Array  # [runs]
    target: Array  # [runs]

    def basis(self, exponents: Array) -> Array:
        """The weighted columns [1, N^-alpha, D^-beta]."""
        columns = np.exp(-exponents * self.logs)
        return np.column_stack([np.ones(len(columns)), columns]) * self.scale[:, None]

    def residual(self, log_exponents: Array) -> Array:
        matrix = self.basis(np.exp(log_exponents))
        return matrix @ _solve_nonnegative(matrix, self.target) - self.target

    def jacobian(self, log_exponents: Array) -> Array:
        """Kaufman's (1975): the columns' change that the linear numbers cannot take up."""
        exponents = np.exp(log_exponents)
        matrix = self.basis(exponents)
        linear = _solve_nonnegative(matrix, self.target)
        change = matrix[:, 1:] * linear[1:] * -exponents * self.logs
        active = matrix[:, linear > 0]
        return change - active @ np.linalg.lstsq(active, change, rcond=None)[0]

    def refine(self, start: Array) -> tuple[Array, float]:
        """(alpha, beta) and half the sum of squares; the search is over logarithms, so both stay positive."""
        found = least_squares(
            self.residual,
            np.log(start),
            self.jacobian,  # pyright: ignore[reportArgumentType] (scipy's stub knows only the named ones)
            bounds=tuple(np.log(EXPONENT_RANGE)),
            xtol=1e-14,
            ftol=1e-14,
            gtol=1e-14,
            max_nfev=60,
        )
        return np.exp(found.x), float(found.cost)


def _fit_weighted(
    counts: Array, seen: Array, measured: Array, weights: Array, start: tuple[float, float] | None = None
) -> LossLaw:
    """Variable projection: search (alpha, beta), solve E, A, B inside. `start` skips the grid of starting points."""
    logs = np.log(np.column_stack([counts, seen]))
    centre = logs.mean(axis=0)
    problem = _Projection(logs - centre, np.sqrt(weights) / measured, np.sqrt(weights))
    starts = [np.array(start)] if start else _grid_starts(problem)
    exponents, _ = min((problem.refine(point) for point in starts), key=lambda found: found[1])
    linear = _solve_nonnegative(problem.basis(exponents), problem.target)
    linear[1:] *= np.exp(exponents * centre)
    return LossLaw(float(linear[0]), float(linear[1]), float(exponents[0]), float(linear[2]), float(exponents[1]))


def _grid_starts(problem: _Projection, num_starts: int = 2) -> list[Array]:
    """The best local minima of a coarse grid over (alpha, beta)."""
    points = np.array(list(itertools.product(_GRID, _GRID)))
    columns = np.exp(-points[:, None, :] * problem.logs)
    matrices = np.concatenate([np.ones((*columns.shape[:2], 1)), columns], axis=2) * problem.scale[:, None]
    grams = matrices.transpose(0, 2, 1) @ matrices + 1e-12 * np.eye(3)
    linear = np.clip(np.linalg.solve(grams, matrices.transpose(0, 2, 1) @ problem.target[:, None]), 0, None)
    costs = np.sum(((matrices @ linear)[:, :, 0] - problem.target) ** 2, axis=1)
    surface = costs.reshape(len(_GRID), len(_GRID))
    padded = np.pad(surface, 1, constant_values=np.inf)
    neighbours = [padded[1 + i :, 1 + j :] for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]
    lowest = np.min([view[: len(_GRID), : len(_GRID)] for view in neighbours], axis=0)
    order = np.argsort(np.where(surface <= lowest, surface, np.inf), axis=None)
    return [points[index] for index in order[:num_starts]]


def _solve_nonnegative(matrix: Array, target: Array) -> Array:
    """Non-negative least squares of three columns: the unconstrained answer, or the best of the six smaller ones."""
    best, best_cost = np.zeros(3), np.inf
    for subset in _SUBSETS:
        part, *_ = np.linalg.lstsq(matrix[:, subset], target, rcond=None)
        if (part < 0).any():
            continue
        cost = float(np.sum((matrix[:, subset] @ part - target) ** 2))
        if len(subset) == 3:
            return part.astype(np.float64)
        if cost < best_cost:
            best, best_cost = np.zeros(3), cost
            best[subset] = part
    return best


def _huber_weights(residuals: Array) -> Array:
    """Weight 1 within 1.345 standard deviations (median absolute deviation / 0.6745), falling as 1/|r| beyond."""
    spread = max(float(np.median(np.abs(residuals))) / 0.6745, 1e-12)
    return np.minimum(1.0, _HUBER_WIDTH * spread / np.maximum(np.abs(residuals), 1e-300))


def _bounds(values: Array, level: float) -> tuple[float, float]:
    tail = 50 * (1 - level)
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)
