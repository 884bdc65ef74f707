import math

import pytest

from modelmill.tasks.errors import InputError
from modelmill.tasks.scaling.learning_rate import RateTrial, best_rate, fit_rate_law

RATES = (1e-3, 2e-3, 4e-3, 8e-3)


def trials(width: int, optimum: float, rates: tuple[float, ...] = RATES) -> list[RateTrial]:
    return [RateTrial(width, rate, 4 + 0.1 * math.log(rate / optimum) ** 2) for rate in rates]


def test_best_rate_lies_between_the_tried_ones() -> None:
    found = best_rate(trials(64, 3e-3))
    assert found.inside
    assert found.learning_rate == pytest.approx(3e-3)
    assert found.loss == pytest.approx(4)


def test_no_extrapolation_beyond_the_tried_rates() -> None:
    found = best_rate(trials(64, 5e-2))
    assert found.learning_rate == 8e-3
    assert not found.inside


def test_diverged_trials_do_not_count() -> None:
    assert best_rate([*trials(64, 3e-3), RateTrial(64, 1.0, math.nan)]).learning_rate == pytest.approx(3e-3)
    with pytest.raises(InputError, match="found 1 learning rates"):
        best_rate([RateTrial(64, 1.0, math.nan), RateTrial(64, 0.1, 5.0)])


def test_one_width_follows_the_rule() -> None:
    law = fit_rate_law(trials(64, 3e-3), default_exponent=-0.5)
    assert not law.exponent_fitted
    assert law.at(64) == pytest.approx(3e-3)
    assert law.at(256) == pytest.approx(1.5e-3)


def test_two_widths_fit_the_exponent() -> None:
    law = fit_rate_law(trials(32, 4e-3) + trials(128, 2e-3), default_exponent=0)
    assert law.exponent_fitted
    assert law.exponent == pytest.approx(-0.5)
    assert law.at(512) == pytest.approx(1e-3)


def test_a_width_without_a_valley_does_not_bend_the_law() -> None:
    law = fit_rate_law(trials(32, 4e-3) + trials(128, 1.0), default_exponent=-1)
    assert not law.exponent_fitted
    assert law.at(32) == pytest.approx(4e-3)
