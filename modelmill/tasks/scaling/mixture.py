"""Losses of small proxies on drawn mixtures → each domain's loss as a function of the weights; the best weights.

ln(L_i − c_i) = a_i + Σ_j t_ij r_j: the data mixing law of Ye et al. (arXiv:2403.16952). With c_i known it is linear, so
c_i is looked for on a grid and the rest solved (ridge), by the error of runs left out. Mixtures are drawn, and the best
of many drawn ones averaged, as RegMix does (arXiv:2407.01492): a single best draw would be mostly luck.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modelmill.tasks.errors import InputError

Array = npt.NDArray[np.float64]

_FLOORS = np.linspace(0.0, 0.98, 50)  # c_i, as a share of the lowest loss of the domain
_RIDGE = 1e-4
_CANDIDATES, _AVERAGED = 50_000, 100
# The best of many mixtures looks better than it is: with losses of pure noise (12 runs, 3 domains) the gain exceeds
# three times the left-out error in 3 % of cases, twice in 9 %.
_CLEAR = 3.0


@dataclass(frozen=True)
class MixtureLaw:
    """Arrays over domains [K] and domains x weights [K, K]; `left_out` is the relative error (root mean square) of the
    mean loss of runs that the fit did not see."""

    domains: tuple[str, ...]
    floor: Array
    intercept: Array
    slopes: Array
    left_out: float

    def losses(self, weights: Array) -> Array:
        """Losses [n, K] of mixtures [n, K]."""
        return self.floor + np.exp(self.intercept + weights @ self.slopes.T)


@dataclass(frozen=True)
class MixtureChoice:
    """The mixture to train on. `gain` is the share of the mean loss that the best mixture is forecast to save; where
    that is not clearly more than the law's own error, the natural mixture stays (`kept`)."""

    weights: dict[str, float]
    best: dict[str, float]
    gain: float
    kept: bool


def draw_mixtures(natural: Mapping[str, float], count: int, most: Mapping[str, float], seed: int) -> list[Array]:
    """The natural mixture, then `count` - 1 drawn around it (Dirichlet), none with more of a domain than `most`."""
    centre = np.array([natural[domain] for domain in sorted(natural)])
    drawn = _draws(centre, np.array([most[domain] for domain in sorted(natural)]), count - 1, seed)
    return [centre, *drawn]


def fit_mixture_law(domains: Sequence[str], weights: Sequence[Array], losses: Sequence[Array]) -> MixtureLaw:
    """Fit the law of every domain; weights and losses are [runs, K], domains sorted.

    Raises:
        InputError: too few runs for the numbers of the law.
    """
    tried, measured = np.array(weights), np.array(losses)
    if len(tried) < len(domains) + 2:
        raise InputError(
            f"found {len(tried)} mixtures of {len(domains)} domains; the law has {len(domains) + 1} numbers a domain "
            f"and needs at least {len(domains) + 2}. Raise scaling.mixtures."
        )
    fits = [_fit_domain(tried, measured[:, index]) for index in range(len(domains))]
    predicted = np.column_stack([fit[2] for fit in fits])
    error = predicted.mean(axis=1) / measured.mean(axis=1) - 1
    return MixtureLaw(
        tuple(domains),
        np.array([fit[0] for fit in fits]),
        np.array([fit[1][0] for fit in fits]),
        np.array([fit[1][1:] for fit in fits]),
        float(np.sqrt(np.mean(error**2))),
    )


def choose_mixture(
    law: MixtureLaw, natural: Mapping[str, float], most: Mapping[str, float], seed: int
) -> MixtureChoice:
    """The mixture of the lowest mean loss over domains (each counts alike, as in the validation loss)."""
    centre = np.array([natural[domain] for domain in law.domains])
    drawn = np.array(_draws(centre, np.array([most[domain] for domain in law.domains]), _CANDIDATES, seed + 1))
    means = law.losses(drawn).mean(axis=1)
    best = drawn[np.argsort(means)[:_AVERAGED]].mean(axis=0)
    before, after = (float(law.losses(weights[None]).mean()) for weights in (centre, best))
    gain = 1 - after / before
    named = {domain: round(float(share), 6) for domain, share in zip(law.domains, best, strict=True)}
    kept = gain <= _CLEAR * law.left_out
    return MixtureChoice(dict(natural) if kept else named, named, gain, kept)


def _draws(centre: Array, most: Array, count: int, seed: int) -> list[Array]:
    """`count` draws within the bounds; a domain that is hardly there is tried as well."""
    generator = np.random.default_rng(seed)
    spread = np.maximum(len(centre) * centre, 0.5)
    found: list[Array] = []
    while len(found) < count:
        drawn = generator.dirichlet(spread, size=max(64, count))
        # Towards the natural mixture until no domain is repeated too often: the bounds always allow that one.
        over = np.maximum(drawn - centre, 1e-12)
        step = np.min(np.where(drawn > most, (most - centre) / over, 1.0), axis=1, keepdims=True)
        found.extend(centre + np.clip(step, 0, 1) * (drawn - centre))
    return found[:count]


def _fit_domain(weights: Array, losses: Array) -> tuple[float, Array, Array]:
    """(c, [a, t...], losses predicted with each run left out) of one domain, by the smallest left-out error."""
    centre = weights.mean(axis=0)
    matrix = np.column_stack([np.ones(len(weights)), weights - centre])
    penalty = _RIDGE * len(weights) * np.diag([0.0, *np.ones(weights.shape[1])])
    solver = np.linalg.solve(matrix.T @ matrix + penalty, matrix.T)
    leverage = np.minimum(np.sum(matrix * solver.T, axis=1), 0.999)
    best: tuple[float, Array, Array] | None = None
    best_error = np.inf
    for floor in _FLOORS * losses.min():
        logs = np.log(losses - floor)
        coefficients = solver @ logs
        left_out = logs - (logs - matrix @ coefficients) / (1 - leverage)
        predicted = floor + np.exp(left_out)
        error = float(np.sum((predicted / losses - 1) ** 2))
        if error < best_error:
            coefficients[0] -= centre @ coefficients[1:]
            best, best_error = (float(floor), coefficients, predicted), error
    assert best is not None
    return best
