import pytest

from modelmill.tasks.errors import RecipeError
from modelmill.tasks.lm.shape import count_matmul_parameters, count_parameters
from modelmill.tasks.scaling.choice import CountedLaw, ProxyRun, candidates, choose, counted, fit_counted_law
from modelmill.tasks.scaling.laws import LossLaw
from modelmill.tasks.scaling.sweep import plan_sweep

VOCAB_SIZE = 2048
LAW = LossLaw(1.7, 60.0, 0.3, 400.0, 0.35)


def planted(count: str) -> list[ProxyRun]:
    """Runs of a sweep that follow LAW exactly, N counted in one way."""
    sweep = plan_sweep(3e14, VOCAB_SIZE, batch_tokens=1024, tokens_per_parameter=20)
    return [
        ProxyRun(size.shape, point.tokens, point.flops, float(LAW.loss(counted(size.shape, count), point.tokens)), 1e-3)
        for size in sweep
        for point in size.points
    ]


def fitted(count: str = "all") -> CountedLaw:
    return fit_counted_law(planted(count), num_copies=20, robust=False, seed=0)


@pytest.mark.parametrize("count", ["all", "body"])
def test_the_count_that_the_runs_follow_is_found(count: str) -> None:
    law = fitted(count)
    assert law.count == count
    assert law.errors[count] < 1e-9
    assert law.fitted.law.alpha == pytest.approx(LAW.alpha, rel=1e-6)


def test_candidates_spend_the_budget_and_the_choice_is_the_optimum() -> None:
    law, budget = fitted(), 1e16
    found = candidates(law, budget, VOCAB_SIZE, batch_tokens=1024, low=1e6, high=1e8, max_tokens=1e15, tied=True)
    for candidate in found:
        assert 6 * count_matmul_parameters(candidate.shape) * candidate.tokens == pytest.approx(budget, rel=0.01)
    chosen, limit = choose(found, 1e6, 1e8, 1e15)
    optimum, _ = law.fitted.law.compute_optimal(budget)
    assert count_parameters(chosen.shape) == pytest.approx(optimum, rel=0.15)
    assert "inside the bounds" in limit


def test_bounds_hold_and_are_named() -> None:
    law, budget = fitted(), 1e16
    optimum, _ = law.fitted.law.compute_optimal(budget)
    for low, high, name in ((optimum * 2, optimum * 8, "min_parameters"), (optimum / 8, optimum / 2, "max_parameters")):
        found = candidates(law, budget, VOCAB_SIZE, batch_tokens=1024, low=low, high=high, max_tokens=1e15, tied=True)
        chosen, limit = choose(found, low, high, 1e15)
        assert low <= count_parameters(chosen.shape) <= high
        assert name in limit


def test_a_small_corpus_limits_the_tokens() -> None:
    found = candidates(fitted(), 1e16, VOCAB_SIZE, batch_tokens=1024, low=1e6, high=1e8, max_tokens=1e6, tied=True)
    assert max(candidate.tokens for candidate in found) <= 1e6
    assert "corpus allows" in choose(found, 1e6, 1e8, 1e6)[1]


def test_no_model_within_the_bounds() -> None:
    with pytest.raises(RecipeError, match="no model of the ladder"):
        candidates(fitted(), 1e16, VOCAB_SIZE, batch_tokens=1024, low=2e6, high=2.001e6, max_tokens=1e9, tied=True)
