import math

import pytest
from pydantic import ValidationError

from modelmill.tasks.lm.plan import Plan, StepPoint
from modelmill.tasks.lm.schedule import Phase, Schedule


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


def test_steps_take_every_row_once_and_the_rate_of_their_middle() -> None:
    plan = Plan(total_tokens=1000, batch_tokens=100, sequence_length=10, schedule=wsd())
    points = list(plan.points())
    assert [point.first_row for point in points] == list(range(0, 100, 10))
    assert points[0].learning_rate == pytest.approx(0.5)
    assert points[-1].learning_rate == pytest.approx(0.25)
    assert points == [*plan.points(end_tokens=400), *plan.points(start_tokens=400)]
    assert list(plan.points(first_step=7)) == points[7:]


def changing(**changes) -> Plan:
    values = {
        "total_tokens": 9_000,
        "batch_tokens": 40,
        "sequence_length": 10,
        "schedule": wsd(warmup_tokens=0, warmup_steps=30, decay_tokens=900),
        "batch_ramp": ((333, 100), (4_000, 140)),
        "sequence_ramp": ((333, 20), (1_111, 50), (1_400, 20), (5_001, 10)),
        "rope_ramp": ((1_111, 2e4),),
        "mixture_ramp": ((7_000, {"prose": 1.0}),),
    }
    return Plan(**(values | changes))


def counted_one_by_one(plan: Plan) -> list[StepPoint]:
    """Every step by going through all before it, as the plan is defined."""
    points, tokens, used = [], 0, {}
    while tokens < plan.total_tokens:
        at = plan.at(tokens)
        length, rows = at.sequence_length, max(round(at.batch_tokens / at.sequence_length), 1)
        rate = plan.at(tokens + rows * length / 2).learning_rate
        points.append(StepPoint(len(points), tokens, rate, length, rows, used.get(length, 0), at.rope_theta))
        used[length] = used.get(length, 0) + rows
        tokens += rows * length
    return points


def test_any_step_is_found_without_the_ones_before_it() -> None:
    plan = changing()
    expected = counted_one_by_one(plan)
    assert list(plan.points()) == expected
    assert plan.num_steps == len(expected)
    lengths = [(point.sequence_length, point.first_row) for point in expected]
    assert lengths[9:11] == [(20, 0), (20, 5)]
    assert plan.num_rows == {
        length: sum(point.num_rows for point in expected if point.sequence_length == length) for length in (10, 20, 50)
    }
    # rows go on where those of the same length ended, so that none is taken twice
    assert len({(p.sequence_length, p.first_row) for p in expected}) == len(expected)
    for start, end in ((0, 333), (333, 1_112), (350, 8_000), (8_999, None), (9_000, None)):
        inside = [point for point in expected if start <= point.tokens < (end or plan.total_tokens)]
        assert list(plan.points(start_tokens=start, end_tokens=end)) == inside
    for step in (0, 9, 10, 50, len(expected) - 1):
        assert list(plan.points(first_step=step)) == expected[step:]
        timeline = plan.timeline()
        assert timeline.tokens(step) == expected[step].tokens
        assert timeline.steps(expected[step].tokens) == step
    assert [plan.at(tokens).mixture for tokens in (0, 7_000)] == [None, {"prose": 1.0}]


def test_phases_follow_each_other() -> None:
    phases = (
        Phase(tokens=500),
        Phase(tokens=300, shape="linear", final_rate=0.2),
        Phase(tokens=200, shape="exponential", final_rate=0.05),
    )
    schedule = Schedule(kind="phases", learning_rate=1.0, warmup_tokens=100, phases=phases)
    rates = [schedule.at(tokens, 1000) for tokens in (50, 100, 499, 650, 800, 900, 1000, 1100)]
    assert rates == pytest.approx([0.5, 1, 1, 0.6, 0.2, 0.1, 0.05, 0.05])


def test_a_plan_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValidationError, match="shorten one of them"):
        Plan(total_tokens=100, batch_tokens=10, sequence_length=10, schedule=wsd())
    with pytest.raises(ValidationError, match="holds no row"):
        Plan(total_tokens=1000, batch_tokens=5, sequence_length=10, schedule=wsd())
    assert math.isclose(Plan(total_tokens=1000, batch_tokens=10, sequence_length=10, schedule=wsd()).num_steps, 100)
    with pytest.raises(ValidationError, match="give one"):
        wsd(warmup_steps=3)
    with pytest.raises(ValidationError, match="expected as many"):
        Plan(
            total_tokens=1000,
            batch_tokens=10,
            sequence_length=10,
            schedule=Schedule(kind="phases", learning_rate=1.0, phases=(Phase(tokens=900),)),
        )
    with pytest.raises(ValidationError, match="each above the last"):
        changing(batch_ramp=((300, 20), (200, 40)))
    with pytest.raises(ValidationError, match="holds no row of 50"):
        changing(batch_ramp=())
