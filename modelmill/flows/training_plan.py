"""A line → the plans of its training stages one after another, and a picture of them over tokens."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modelmill.flows.plan import PlanEntry
from modelmill.flows.recipe import Line
from modelmill.services.store import Store
from modelmill.tasks.anneal.stage import decay_plan
from modelmill.tasks.errors import InputError, RecipeError
from modelmill.tasks.extend.steps import step_plan
from modelmill.tasks.files import read_json
from modelmill.tasks.lm.plan import Plan
from modelmill.tasks.pretrain.resolve import Picked, resolve_plan

FORMATS = (".png", ".svg", ".html")


@dataclass(frozen=True)
class Stretch:
    """One run of a stage. mixture: weights by domain where the recipe gives them, None where the tokens' own hold."""

    label: str
    plan: Plan
    rope_theta: float
    mixture: dict[str, float] | None


def training_stretches(line: Line, entries: list[PlanEntry], store: Store) -> list[Stretch]:
    """The runs of pretrain, extend and anneal in the line's order, as recipe and finished scaling fit decide them.

    Raises:
        RecipeError: what a stage does is decided by a scaling fit that is not there yet, or there is no such stage.
    """
    choice = _fit_choice(entries, store)
    found: list[Stretch] = []
    earlier: dict[str, Any] = {}
    theta = 0.0
    for node in line.nodes:
        config: Any = node.config
        if node.spec.name == "pretrain":
            plan = _pretrain_plan(config, choice)
            preset = config.shape.values() if config.shape else {}
            theta = config.rope_theta or preset.get("rope_theta", 10_000.0)
            mixture = choice.get("mixture") if config.mixture == "fit" else config.mixture
            new = [Stretch(node.id, plan, theta, mixture)]
            theta = plan.at(plan.total_tokens).rope_theta or theta
        elif node.spec.name == "anneal":
            plan = decay_plan(config, earlier)
            first = config.phases[0].mixture if config.phases else None
            new = [Stretch(node.id, plan, theta, first or config.mixture)]
        elif node.spec.name == "extend":
            new = []
            for step in config.steps:
                theta = step.rope_theta or theta
                plan = step_plan(config, step, config.learning_rate or earlier["learning_rate"])
                new.append(Stretch(f"{node.id} {step.sequence_length}", plan, theta, config.mixture))
        else:
            continue
        found += new
        last = new[-1].plan
        rate = last.at(last.total_tokens).learning_rate or last.schedule.learning_rate
        earlier = {"learning_rate": rate, "sequence_length": max(last.num_rows)}
    if not found:
        raise RecipeError(f"recipe {line.name} has no pretrain, extend or anneal; there is no plan to draw")
    return found


def draw_training_plan(line: Line, stretches: list[Stretch], path: Path) -> None:
    """Write the picture; the suffix chooses PNG, SVG, or an HTML page with the SVG in it.

    Raises:
        InputError: another suffix.
    """
    from modelmill.flows.plots import plan_figure, save_figure

    if path.suffix not in FORMATS:
        raise InputError(f"found --plot {path}; expected a file that ends in {', '.join(FORMATS)}")
    total = sum(stretch.plan.total_tokens for stretch in stretches)
    steps = sum(stretch.plan.num_steps for stretch in stretches)
    figure = plan_figure(f"{line.name}: {total:,} tokens in {steps:,} steps", [sampled(each) for each in stretches])
    save_figure(figure, path)


def sampled(stretch: Stretch, num: int = 400) -> dict[str, Any]:
    """A stretch as arrays over its tokens: evenly, close together in the warm-up, and at both sides of each change."""
    plan = stretch.plan
    warmed = plan.schedule.warmup_end(plan.timeline())
    changes = [segment.tokens for segment in plan.timeline().segments]
    places = {*np.linspace(0, plan.total_tokens, num), *np.linspace(0, warmed, 20), *changes}
    tokens = sorted(places | {max(change - 1, 0) for change in changes})
    points = [plan.at(place) for place in tokens]
    return {
        "label": stretch.label,
        "tokens": tokens,
        "learning rate": [point.learning_rate for point in points],
        "tokens per step": [point.batch_tokens for point in points],
        "tokens per row": [point.sequence_length for point in points],
        "rotary base": [point.rope_theta or stretch.rope_theta for point in points],
        "mixture": [point.mixture or stretch.mixture for point in points],
    }


def _fit_choice(entries: list[PlanEntry], store: Store) -> dict[str, Any]:
    for entry in entries:
        if entry.stage == "scaling" and entry.digest:
            return read_json(store.artifact_path(entry.digest) / "fit.json")["choice"]
    return {}


def _pretrain_plan(config: Any, choice: dict[str, Any]) -> Plan:
    try:
        return resolve_plan(Picked(config, choice))
    except RecipeError as error:
        if choice:
            raise
        raise RecipeError(
            f"{error}. What the recipe leaves open is decided by the scaling fit, which is not built yet: "
            "run the line up to scaling (`mill run RECIPE --to scaling`), or set these values"
        ) from error
