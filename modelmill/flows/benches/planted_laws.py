"""Planted loss laws → how exactly and fast they are fitted, and the error of a forecast at 100 times the compute."""

import time
from collections.abc import Callable

import numpy as np
from scipy.optimize import curve_fit

from modelmill.flows.benches.measured import Measured
from modelmill.tasks.scaling.laws import LossLaw, fit_loss_law, fit_with_bootstrap

STEP = "fit L(N, D)"
LAWS = {
    "Hoffmann": LossLaw(1.69, 406.4, 0.34, 410.7, 0.28),
    "long runs": LossLaw(1.9, 30.0, 0.2, 1500.0, 0.37),
    "large models": LossLaw(0.5, 1e5, 0.7, 10.0, 0.08),
}
SIZES, TOKENS = (
    values.ravel() for values in np.meshgrid(np.geomspace(4e7, 1.6e10, 5), np.geomspace(1e9, 3e11, 5), indexing="ij")
)
NOISE = 0.001
FURTHER = 10.0  # times the largest size and the largest token count: 100 times the compute


def measure(num_seeds: int = 100) -> list[Measured]:
    """Ours beside scipy's curve_fit (MiniCPM's tool) on a grid of 25 runs; errors are relative.

    `recovery`: worst error of any number of a law without noise. `forecast_median` and `forecast_worst`: of the loss at
    100 times the compute, losses with 0.1 % noise, over `num_seeds` seeds a law. Rates are fits a CPU-second.
    """
    found = [
        _measured("modelmill", lambda losses: fit_loss_law(SIZES, TOKENS, losses), num_seeds),
        _measured("modelmill, robust", lambda losses: fit_loss_law(SIZES, TOKENS, losses, robust=True), num_seeds),
        _measured("scipy curve_fit", _by_curve_fit, num_seeds),
    ]
    losses = _noisy(LAWS["Hoffmann"], 0)
    started = time.process_time()
    fit_with_bootstrap(SIZES, TOKENS, losses, num_copies=200)
    seconds = time.process_time() - started
    return [*found, Measured(f"{STEP}, 200 bootstrap copies", "modelmill", 1 / seconds, "laws/s")]


def _measured(tool: str, fit: Callable[[np.ndarray], LossLaw], num_seeds: int) -> Measured:
    recovery = max(_recovery(fit(law.loss(SIZES, TOKENS)), law) for law in LAWS.values())
    started = time.process_time()
    errors = [_forecast_error(fit(_noisy(law, seed)), law) for law in LAWS.values() for seed in range(num_seeds)]
    seconds = time.process_time() - started
    quality = {
        "recovery": float(f"{recovery:.2g}"),
        "forecast_median": float(np.median(errors)),
        "forecast_worst": float(np.max(errors)),
        "forecast_within_half_percent": float(np.mean(np.array(errors) <= 0.005)),
    }
    return Measured(STEP, tool, len(errors) / seconds, "fits/s", quality)


def _noisy(law: LossLaw, seed: int) -> np.ndarray:
    return law.loss(SIZES, TOKENS) * (1 + NOISE * np.random.default_rng(seed).standard_normal(len(SIZES)))


def _recovery(found: LossLaw, law: LossLaw) -> float:
    return max(abs(getattr(found, name) / getattr(law, name) - 1) for name in ("E", "A", "alpha", "B", "beta"))


def _forecast_error(found: LossLaw, law: LossLaw) -> float:
    size, tokens = SIZES.max() * FURTHER, TOKENS.max() * FURTHER
    return abs(float(found.loss(size, tokens)) / float(law.loss(size, tokens)) - 1)


def _by_curve_fit(losses: np.ndarray) -> LossLaw:
    """The five numbers searched for together, from Hoffmann's as the start."""

    def loss(logs: np.ndarray, e: float, a: float, alpha: float, b: float, beta: float) -> np.ndarray:
        return np.exp(e) + np.exp(a - alpha * logs[0]) + np.exp(b - beta * logs[1])

    start = (0.5, 6.0, 0.3, 6.0, 0.3)
    (e, a, alpha, b, beta), _ = curve_fit(
        loss, np.log([SIZES, TOKENS]), losses, start, sigma=losses, bounds=((-9, -9, 0, -9, 0), (3, 25, 3, 25, 3))
    )
    return LossLaw(float(np.exp(e)), float(np.exp(a)), float(alpha), float(np.exp(b)), float(beta))
