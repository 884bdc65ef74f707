"""The shipped recipes of published models give the plans that their reports print."""

from typing import Any

import pytest

from modelmill.flows.recipe import load_recipe
from modelmill.tasks.lm.plan import Plan
from modelmill.tasks.pretrain.resolve import Picked, resolve_plan


def settings(recipe: str, stage: str) -> Any:
    return load_recipe(recipe).node(stage).config


def pretrain_plan(recipe: str) -> Plan:
    return resolve_plan(Picked(settings(recipe, "pretrain"), {}))


def test_llama_405b() -> None:
    """arXiv:2407.21783 §3.4.1: 4M tokens of 4K for 252M tokens, 8M of 8K to 2.87T, 16M; cosine over 1.2M steps."""
    plan = pretrain_plan("llama-3.1-405b")
    assert plan.num_steps == pytest.approx(1_154_000, rel=1e-3)
    ends = [segment.num_steps for segment in plan.timeline().segments]
    assert ends[0] == 63
    assert ends[1:] == pytest.approx([358_719, 795_625], rel=1e-3)
    assert plan.at(251e6)[1:3] == (4_000_000, 4096)
    assert plan.at(252e6)[1:3] == (8_000_000, 8192)
    assert plan.at(2.87e12)[1:3] == (16_000_000, 8192)
    timeline = plan.timeline()
    rates = [plan.at(timeline.tokens(step)).learning_rate for step in (4_000, 8_000, 604_000, 1_200_000)]
    assert rates == pytest.approx([4e-5, 8e-5, (8e-5 + 8e-7) / 2, 8e-7])
    late = next(plan.points(first_step=1_000_000))
    assert late.first_row == timeline.segments[1].num_steps * 977 + (1_000_000 - timeline.segments[2].step) * 1953


def test_dots_llm1() -> None:
    """arXiv:2506.05767 §4.2: 3e-4 after 4,000 steps for 10T tokens; 64M, 96M at 6T, 128M at 8.3T; 1T and 200B more."""
    plan = pretrain_plan("dots.llm1")
    assert plan.schedule.warmup_end(plan.timeline()) == pytest.approx(4_000 * 64e6, rel=1e-3)
    assert plan.at(plan.timeline().tokens(2_000)).learning_rate == pytest.approx(1.5e-4)
    assert {plan.at(tokens).learning_rate for tokens in (0.3e12, 6e12, 10e12)} == {3e-4}
    assert [plan.at(tokens).batch_tokens / 1e6 for tokens in (5.9e12, 6e12, 8.2e12, 8.3e12)] == [64, 96, 96, 128]
    rate = 3e-4
    for name, tokens, last in (("anneal-1", 1e12, 3e-5), ("anneal-2", 200e9, 1e-5)):
        config = settings("dots.llm1", name)
        rate *= config.final_ratio
        assert (config.total_tokens, rate) == (tokens, pytest.approx(last))


def test_minicpm() -> None:
    """arXiv:2404.06395 §4.2, §6.2: 0.01 at 3.93M tokens a step, then half as much every 5,000 steps."""
    plan, anneal = pretrain_plan("minicpm-2.4b"), settings("minicpm-2.4b", "anneal")
    assert plan.at(plan.total_tokens)[:2] == (0.01, 3_932_160)
    half_lives = anneal.total_tokens / (5_000 * anneal.batch_tokens)
    assert anneal.final_ratio == pytest.approx(0.5**half_lives, rel=1e-3)
