import numpy as np
import pytest

from modelmill.tasks.errors import InputError
from modelmill.tasks.scaling.downstream import SuiteRun, fit_two_steps


def planted(flops: float, worse: float = 0.0) -> SuiteRun:
    nll = 3.0 - 0.11 * np.log10(flops) + worse
    return SuiteRun(flops, nll, 0.25 + 0.75 / (1 + np.exp(6 * (nll - 0.9))))


def test_accuracy_is_forecast_four_orders_of_magnitude_further() -> None:
    runs = [planted(flops, worse) for flops in (1e17, 1e18, 1e19, 1e20) for worse in (0.0, 0.02, 0.05)]
    fitted = fit_two_steps(runs, chance=0.25, num_items=1000)
    truth = planted(1e24)
    assert fitted.answer_nll(1e24).value == pytest.approx(truth.answer_nll)
    assert fitted.accuracy(1e24).value == pytest.approx(truth.accuracy, abs=1e-3)
    assert fitted.told


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    generator, held = np.random.default_rng(0), 0
    for _ in range(200):
        runs = [planted(flops, 0.01 * generator.standard_normal()) for flops in (1e17, 1e18, 1e19, 1e20)]
        found = fit_two_steps(runs, 0.25, 1000).answer_nll(1e22)
        held += found.low <= planted(1e22, 0.01 * generator.standard_normal()).answer_nll <= found.high
    assert 0.9 <= held / 200 <= 0.99


def test_proxies_at_chance_tell_nothing() -> None:
    runs = [SuiteRun(flops, 2.0 - 0.01 * step, 0.25) for step, flops in enumerate((1e12, 2e12, 4e12))]
    assert not fit_two_steps(runs, chance=0.25, num_items=100).told


def test_two_budgets_are_refused() -> None:
    with pytest.raises(InputError, match="found 2 budgets"):
        fit_two_steps([planted(1e17), planted(1e18)], 0.25, 100)
