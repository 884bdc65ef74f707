import math

import pytest

from modelmill.tasks.errors import InputError
from modelmill.tasks.scaling.learning_rate import RateTrial, best_rate, fit_rate_law
from modelmill.tasks.scaling.transfer import judge_transfer

RATES = (1e-3, 2e-3, 4e-3, 8e-3)


def trials(width: int, optimum: float, flops: float = 1e12) -> list[RateTrial]:
    return [RateTrial(width, flops, rate, 4 + 0.1 * math.log(rate / optimum) ** 2) for rate in RATES]


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
    assert best_rate([*trials(64, 3e-3), RateTrial(64, 1e12, 1.0, math.nan)]).learning_rate == pytest.approx(3e-3)
    with pytest.raises(InputError, match="found 1 learning rates"):
        best_rate([RateTrial(64, 1e12, 1.0, math.nan), RateTrial(64, 1e12, 0.1, 5.0)])


def test_one_width_follows_the_rule() -> None:
    law = fit_rate_law(trials(64, 3e-3), width_exponent=-0.5)
    assert not law.exponent_fitted
    assert law.at(64, 1e12) == pytest.approx(3e-3)
    assert law.at(256, 1e12) == pytest.approx(1.5e-3)


def test_two_widths_fit_the_exponent() -> None:
    law = fit_rate_law(trials(32, 4e-3) + trials(128, 2e-3), width_exponent=0)
    assert law.exponent_fitted
    assert law.exponent == pytest.approx(-0.5)
    assert law.at(512, 1e12) == pytest.approx(1e-3)


def test_a_width_without_a_valley_does_not_bend_the_law() -> None:
    law = fit_rate_law(trials(32, 4e-3) + trials(128, 1.0), width_exponent=-1)
    assert not law.exponent_fitted
    assert law.at(32, 1e12) == pytest.approx(4e-3)


def test_widths_and_budgets_fit_both_exponents() -> None:
    planted = [(width, flops) for width in (32, 64, 128) for flops in (1e12, 4e12)]
    found = [each for w, c in planted for each in trials(w, 3e-3 * (w / 64) ** -0.4 * (c / 2e12) ** -0.125, c)]
    law = fit_rate_law(found, width_exponent=-1)
    assert law.exponent == pytest.approx(-0.4)
    assert law.compute_exponent == pytest.approx(-0.125)
    assert law.at(256, 1e14) == pytest.approx(3e-3 * 4**-0.4 * 50**-0.125)


def test_what_cannot_be_told_apart_is_not_fitted() -> None:
    law = fit_rate_law(trials(32, 4e-3, 1e12) + trials(128, 2e-3, 4e12), width_exponent=0, compute_exponent=-0.125)
    assert law.exponent_fitted
    assert not law.compute_exponent_fitted
    assert law.compute_exponent == -0.125
    assert law.at(32, 1e12) == pytest.approx(4e-3)
    assert law.at(128, 4e12) == pytest.approx(2e-3)


def test_transfer_is_judged_by_what_the_narrow_rate_costs() -> None:
    kept = judge_transfer(trials(32, 3e-3) + trials(64, 3.1e-3))
    moved = judge_transfer(trials(32, 5e-3) + trials(64, 2.5e-3))
    assert kept.penalty == pytest.approx(0.1 * math.log(3.1 / 3) ** 2 / 4)
    assert "transfers" in kept.verdict
    assert moved.penalty == pytest.approx(0.1 * math.log(2) ** 2 / 4)
    assert "does not transfer" in moved.verdict
    assert judge_transfer(trials(32, 5e-3) + trials(64, 1.0)).penalty is None
