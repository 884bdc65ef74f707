from pathlib import Path

import pytest

from modelmill.flows.plan import plan_line
from modelmill.flows.recipe import load_recipe
from modelmill.flows.training_plan import draw_training_plan, sampled, training_stretches
from modelmill.services.store import Store
from modelmill.tasks.errors import InputError, RecipeError


def test_the_stages_follow_each_other_and_are_drawn(tmp_path: Path) -> None:
    line, store = load_recipe("dots.llm1", ["extend.learning_rate=2e-5"]), Store(tmp_path)
    stretches = training_stretches(line, plan_line(line, store), store)
    assert [stretch.label for stretch in stretches] == ["pretrain", "anneal-1", "anneal-2", "extend 32768"]
    rates = [sampled(stretch)["learning rate"] for stretch in stretches]
    assert [rate[-1] for rate in rates] == pytest.approx([3e-4, 3e-5, 1e-5, 2e-5])
    assert [rate[0] for rate in rates] == pytest.approx([0, 3e-4, 3e-5, 0])
    for suffix, start in ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".html", b"<!doctype html>")):
        path = tmp_path / f"plan{suffix}"
        draw_training_plan(line, stretches, path)
        assert path.read_bytes().startswith(start)
    with pytest.raises(InputError, match=r"ends in \.png"):
        draw_training_plan(line, stretches, tmp_path / "plan.pdf")


def test_what_only_a_fit_decides_is_said(tmp_path: Path) -> None:
    line, store = load_recipe("tiny"), Store(tmp_path)
    with pytest.raises(RecipeError, match="decided by the scaling fit, which is not built yet"):
        training_stretches(line, plan_line(line, store), store)
