import math

import pytest
from pydantic import ValidationError

from modelmill.tasks.lm.plan import Plan, Schedule


def wsd(**changes) -> Schedule:
    return Schedule(**({"kind": "wsd", "learning_rate": 1.0, "warmup_tokens": 100, "decay_tokens": 200} | changes))


@pytest.mark.parametrize(
    ("tokens", "rate"), [(0, 0.0), (50, 0.5), (100, 1.0), (800, 1.0), (900, 0.5), (1000, 0.0), (2000, 0.0)]
)
def test_wsd_warms_up_stays_and_decays(tokens: int, rate: float) -> None:
    assert wsd().at(tokens, 1000) == pytest.approx(rate)


def test_decay_shapes() -> None:
    assert wsd(decay_shape="sqrt").at(850, 1000) == pytest.approx(0.5)
    assert wsd(decay_shape="exponential", half_lives=2).at(900, 1000) == pytest.approx(0.5)
    assert wsd(final_ratio=0.1).at(900, 1000) == pytest.approx(0.55)


def test_cosine_of_llama_ends_at_its_published_rate() -> None:
    # 405B: peak 8e-5, 8,000 steps of warm-up, cosine to 8e-7 over 1,200,000 steps (Llama 3.1 §3.4.1)
    schedule = Schedule(kind="cosine", learning_rate=8e-5, warmup_tokens=8_000, final_ratio=0.01)
    assert schedule.at(8_000, 1_200_000) == pytest.approx(8e-5)
    assert schedule.at(604_000, 1_200_000) == pytest.approx((8e-5 + 8e-7) / 2)
    assert schedule.at(1_200_000, 1_200_000) == pytest.approx(8e-7)


def test_multi_step_of_deepseek() -> None:
    schedule = Schedule(kind="multi_step", learning_rate=1.0)
    assert [schedule.at(tokens, 100) for tokens in (79, 80, 89, 90, 100)] == [1.0, 0.316, 0.316, 0.1, 0.1]


def test_batch_and_sequence_ramps_of_llama() -> None:
    million = 1_000_000
    plan = Plan(
        total_tokens=15_600_000 * million,
        batch_tokens=4 * million,
        sequence_length=4096,
        schedule=Schedule(kind="constant", learning_rate=8e-5),
        batch_ramp=((252 * million, 8 * million), (2_870_000 * million, 16 * million)),
        sequence_ramp=((252 * million, 8192),),
    )
    assert plan.at(0)[1:] == (4 * million, 4096)
    assert plan.at(252 * million)[1:] == (8 * million, 8192)
    assert plan.at(3_000_000 * million)[1:] == (16 * million, 8192)


def test_steps_take_every_row_once_and_the_rate_of_their_middle() -> None:
    plan = Plan(total_tokens=1000, batch_tokens=100, sequence_length=10, schedule=wsd())
    points = list(plan.points())
    assert [point.first_row for point in points] == list(range(0, 100, 10))
    assert points[0].learning_rate == pytest.approx(0.5)
    assert points[-1].learning_rate == pytest.approx(0.25)
    assert points == [*plan.points(end_tokens=400), *plan.points(start_tokens=400)]
    assert list(plan.points(first_step=7)) == points[7:]


def test_rows_are_counted_per_sequence_length() -> None:
    plan = Plan(total_tokens=80, batch_tokens=20, sequence_length=10, schedule=wsd(warmup_tokens=0, decay_tokens=0))
    plan = plan.model_copy(update={"sequence_ramp": ((40, 20),)})
    assert [(p.sequence_length, p.first_row, p.num_rows) for p in plan.points()] == [
        (10, 0, 2),
        (10, 2, 2),
        (20, 0, 1),
        (20, 1, 1),
    ]


def test_a_plan_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValidationError, match="shorten one of them"):
        Plan(total_tokens=100, batch_tokens=10, sequence_length=10, schedule=wsd())
    with pytest.raises(ValidationError, match="holds no row"):
        Plan(total_tokens=1000, batch_tokens=5, sequence_length=10, schedule=wsd())
    assert math.isclose(Plan(total_tokens=1000, batch_tokens=10, sequence_length=10, schedule=wsd()).num_steps, 100)
