import pytest

from modelmill.tasks.errors import RecipeError
from modelmill.tasks.lm.shape import count_matmul_parameters, count_parameters
from modelmill.tasks.scaling.sweep import plan_sweep, tokens_for

TINY = {"batch_tokens": 2048, "tokens_per_parameter": 0.4}


def test_tiny_sweep_has_nine_runs_and_more_and_spends_its_budget() -> None:
    sweep = plan_sweep(5e12, 4096, **TINY)
    assert len(sweep) == 4
    assert len({count_parameters(runs.shape) for runs in sweep}) == 4
    assert all(len(runs.points) == 3 for runs in sweep)
    assert sum(runs.training_flops(0.2) for runs in sweep) == pytest.approx(5e12, rel=0.02)


def test_points_of_one_budget_cost_the_same() -> None:
    for runs in plan_sweep(5e12, 4096, **TINY):
        for point in runs.points:
            assert point.tokens % 2048 == 0
            assert 6 * count_matmul_parameters(runs.shape) * point.tokens == pytest.approx(point.flops, rel=0.03)


def test_large_sweep_lies_around_the_wanted_tokens_per_parameter() -> None:
    sweep = plan_sweep(1e19, 32_000, batch_tokens=2**19)
    middle = [point.tokens / count_parameters(runs.shape) for runs in sweep for point in runs.points[1:2]]
    assert min(middle) < 20 < max(middle)


def test_tokens_for_is_whole_batches() -> None:
    shape = plan_sweep(5e12, 4096, **TINY)[0].shape
    assert tokens_for(1.0, shape, 2048) == 2048
    assert tokens_for(6.0 * count_matmul_parameters(shape) * 10_000, shape, 2048) == 10_240


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_sizes": 2}, "at least 3 of each"),
        ({"flops": 1e11}, "Raise sweep_flops"),
        ({"max_tokens": 1e5}, "corpus allows 100,000"),
        ({"size_ratio": 1.05}, "they must differ"),
    ],
)
def test_impossible_sweeps_are_refused(changes: dict, message: str) -> None:
    arguments = TINY | {"flops": 5e12, "vocab_size": 4096} | changes
    with pytest.raises(RecipeError, match=message):
        plan_sweep(**arguments)
