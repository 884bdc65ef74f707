import numpy as np
import pytest

from modelmill.tasks.errors import InputError
from modelmill.tasks.scaling.laws import LossLaw, fit_loss_law, fit_with_bootstrap

PLANTED = [
    LossLaw(1.69, 406.4, 0.34, 410.7, 0.28),  # Hoffmann et al., as printed
    LossLaw(1.9, 30.0, 0.2, 1500.0, 0.37),
    LossLaw(0.5, 1e5, 0.7, 10.0, 0.08),
]
SIZES, TOKENS = (values.ravel() for values in np.meshgrid(np.geomspace(4e7, 1.6e10, 5), np.geomspace(1e9, 3e11, 5)))


@pytest.mark.parametrize("law", PLANTED)
@pytest.mark.parametrize("robust", [False, True])
def test_planted_law_is_recovered(law: LossLaw, robust: bool) -> None:
    found = fit_loss_law(SIZES, TOKENS, law.loss(SIZES, TOKENS), robust=robust)
    for name in ("E", "A", "alpha", "B", "beta"):
        assert getattr(found, name) == pytest.approx(getattr(law, name), rel=1e-6)


def test_small_grid_of_proxies_is_enough_without_noise() -> None:
    law = LossLaw(1.2, 200, 0.35, 500, 0.4)
    sizes, tokens = (v.ravel() for v in np.meshgrid(np.geomspace(1e5, 6e5, 3), np.geomspace(3e4, 2.5e5, 3)))
    found = fit_loss_law(sizes, tokens, law.loss(sizes, tokens))
    assert found.loss(2e6, 1e6) == pytest.approx(law.loss(2e6, 1e6), rel=1e-6)


@pytest.mark.parametrize("law", PLANTED)
def test_forecast_at_100_times_the_compute_with_noise(law: LossLaw) -> None:
    generator = np.random.default_rng(0)
    size, tokens = SIZES.max() * 10, TOKENS.max() * 10
    for _ in range(10):
        noisy = law.loss(SIZES, TOKENS) * (1 + 0.001 * generator.standard_normal(len(SIZES)))
        assert fit_loss_law(SIZES, TOKENS, noisy).loss(size, tokens) == pytest.approx(law.loss(size, tokens), rel=5e-3)


def test_intervals_hold_the_truth_and_the_measurement() -> None:
    law, generator = PLANTED[0], np.random.default_rng(1)
    held, held_exponent, trials = 0, 0, 16
    for trial in range(trials):
        noisy = law.loss(SIZES, TOKENS) * (1 + 0.003 * generator.standard_normal(len(SIZES)))
        fitted = fit_with_bootstrap(SIZES, TOKENS, noisy, num_copies=40, seed=trial)
        interval = fitted.forecast(3e10, 6e11)
        outcome = float(law.loss(3e10, 6e11)) * (1 + 0.003 * generator.standard_normal())
        held += interval.low <= outcome <= interval.high
        alpha = fitted.intervals()["alpha"]
        held_exponent += alpha.low <= law.alpha <= alpha.high
    assert held >= 0.8 * trials
    assert held_exponent >= 0.8 * trials


def test_bootstrap_depends_on_the_seed_only() -> None:
    noisy = PLANTED[0].loss(SIZES, TOKENS) * (1 + 0.01 * np.cos(np.arange(len(SIZES))))
    one, two, other = (fit_with_bootstrap(SIZES, TOKENS, noisy, num_copies=5, seed=seed) for seed in (3, 3, 4))
    assert one.copies == two.copies
    assert one.copies != other.copies


def test_robust_fit_ignores_a_run_that_went_wrong() -> None:
    law = PLANTED[0]
    losses = law.loss(SIZES, TOKENS) * (1 + 0.0005 * np.sin(np.arange(len(SIZES))))
    losses[7] *= 1.3
    target = float(law.loss(1e11, 1e12))
    plain, robust = (float(fit_loss_law(SIZES, TOKENS, losses, robust=mode).loss(1e11, 1e12)) for mode in (False, True))
    assert abs(robust / target - 1) < 0.01 < abs(plain / target - 1)


def test_compute_optimal_spends_the_budget_at_the_lowest_loss() -> None:
    law, flops = PLANTED[0], 1e21
    size, tokens = law.compute_optimal(flops)
    assert 6 * size * tokens == pytest.approx(flops)
    for factor in (0.8, 0.95, 1.05, 1.25):
        assert law.loss(size * factor, tokens / factor) > law.loss(size, tokens)


def test_numbers_are_never_negative() -> None:
    losses = np.linspace(4, 3, len(SIZES))[np.argsort(np.argsort(-TOKENS))]  # size does not help at all
    law = fit_loss_law(SIZES, TOKENS, losses)
    assert min(law.E, law.A, law.B, law.alpha, law.beta) >= 0


def test_size_that_does_not_help_gives_no_optimum() -> None:
    with pytest.raises(InputError, match="no compute-optimal size"):
        LossLaw(1, 0, 0.3, 5, 0.3).compute_optimal(1e20)


@pytest.mark.parametrize(
    ("sizes", "tokens", "losses", "message"),
    [
        ([1e6, 2e6, 3e6], [1e7, 2e7, 3e7], [3, 2, 1], "found 3 runs"),
        ([1e6, 2e6] * 4, [1e7, 2e7, 3e7, 4e7] * 2, [3] * 8, "of 2 sizes"),
        ([1e6, 2e6, 3e6] * 3, [1e7] * 9, [3] * 9, "1 token counts"),
        ([1e6, 2e6, 3e6] * 3, np.repeat([1e7, 2e7, 3e7], 3), [3] * 8 + [float("nan")], "diverged"),
        ([1e6, 2e6, 3e6] * 3, np.repeat([0, 2e7, 3e7], 3), [3] * 9, "token count of 0"),
    ],
)
def test_degenerate_runs_are_refused(sizes: list, tokens: list, losses: list, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit_loss_law(sizes, tokens, losses)
