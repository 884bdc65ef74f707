import math

import numpy as np
import pytest

from modelmill.tasks.errors import InputError
from modelmill.tasks.scaling.isoflop import BudgetLosses, fit_isoflop
from modelmill.tasks.scaling.laws import LossLaw


def valley(flops: float, optimum: float, curvature: float = 0.05, factors: tuple = (0.3, 0.7, 1.5, 3)) -> BudgetLosses:
    sizes = tuple(optimum * factor for factor in factors)
    return BudgetLosses(flops, sizes, tuple(3 + curvature * math.log(size / optimum) ** 2 for size in sizes))


def test_vertex_of_a_planted_parabola() -> None:
    fitted = fit_isoflop([valley(1e18, 2.5e7)])
    (parabola,) = fitted.parabolas
    assert parabola.inside
    assert parabola.optimum is not None
    assert parabola.optimum.value == pytest.approx(2.5e7)
    assert parabola.loss == pytest.approx(3)
    assert parabola.at(np.array([2.5e7]))[0] == pytest.approx(3)
    assert fitted.parameters_law is None, "one vertex is no law"


def test_law_of_the_optimum() -> None:
    budgets = [valley(flops, 0.1 * flops**0.46) for flops in (1e17, 1e18, 1e19)]
    fitted = fit_isoflop(budgets)
    assert fitted.parameters_law is not None
    assert fitted.tokens_law is not None
    assert fitted.parameters_law.exponent == pytest.approx(0.46)
    assert fitted.parameters_law.coefficient == pytest.approx(0.1)
    assert fitted.tokens_law.exponent == pytest.approx(0.54)
    assert fitted.parameters_law.at(1e20) * fitted.tokens_law.at(1e20) * 6 == pytest.approx(1e20)


def test_interval_widens_with_noise_and_holds_the_vertex() -> None:
    budgets = [valley(flops, 0.1 * flops**0.46) for flops in (1e17, 1e18, 1e19)]
    quiet, loud = (fit_isoflop(budgets, noise=noise).parabolas[0].optimum for noise in (0.0005, 0.003))
    assert quiet is not None
    assert loud is not None
    assert loud.low < quiet.low < quiet.value < quiet.high < loud.high


def test_agrees_with_the_loss_law() -> None:
    law, budgets = LossLaw(1.69, 406.4, 0.34, 410.7, 0.28), []
    for flops in (1e19, 1e20, 1e21):
        optimum, _ = law.compute_optimal(flops)
        sizes = tuple(optimum * factor for factor in (0.5, 0.8, 1.25, 2))
        budgets.append(BudgetLosses(flops, sizes, tuple(float(law.loss(n, flops / 6 / n)) for n in sizes)))
    fitted = fit_isoflop(budgets)
    assert fitted.parameters_law is not None
    assert fitted.parameters_law.exponent == pytest.approx(law.beta / (law.alpha + law.beta), abs=0.01)


def test_hill_has_no_optimum() -> None:
    (parabola,) = fit_isoflop([valley(1e18, 2.5e7, curvature=-0.05)]).parabolas
    assert parabola.optimum is None
    assert not parabola.inside


def test_vertex_outside_of_the_sizes_is_said_to_be_outside() -> None:
    fitted = fit_isoflop([valley(flops, 1e7, factors=(2, 3, 4, 5)) for flops in (1e18, 1e19)])
    assert [parabola.inside for parabola in fitted.parabolas] == [False, False]
    assert fitted.parameters_law is None


def test_two_sizes_are_refused() -> None:
    with pytest.raises(InputError, match="found 2 sizes"):
        fit_isoflop([BudgetLosses(1e18, (1e6, 2e6), (3.0, 2.9))])
