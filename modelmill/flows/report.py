"""The stages of a line's newest run → one self-contained HTML page for people."""

import time
from pathlib import Path
from typing import Any

import jinja2

from modelmill.flows import expert_plots, plots, report_data
from modelmill.flows.report_data import StageView
from modelmill.tasks.evaluate.scorecard import main_header, main_row
from modelmill.tasks.extend.report import gate_rows, needle_figure, ruler_rows
from modelmill.tasks.files import read_json, write_output

__all__ = ["StageView", "write_report"]


def write_report(stages: list[StageView], path: Path, record: dict[str, Any]) -> Path:
    """Write the page. `record` is what the store remembers of the run; sections without an artifact are left out."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("modelmill.flows"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["number"] = lambda value: f"{value:,.0f}"
    page = environment.get_template("report.html").render(**page_values(stages, record))
    write_output(path, page)
    return path


def page_values(stages: list[StageView], record: dict[str, Any]) -> dict[str, Any]:
    """All that the template shows."""
    scorecard, steps, curves = (
        report_data.scorecard(stages),
        report_data.align_steps(stages),
        report_data.curves(stages),
    )
    needles = [model for model in (scorecard or {}).get("models", []) if model.get("needle")]
    return {
        "name": record["name"],
        "description": record["recipe"].get("description", ""),
        "date": time.strftime("%d %B %Y, %H:%M", time.localtime(record["time"])),
        "links": {key: value for key, value in record.get("links", {}).items() if value.startswith("http")},
        "stages": stages,
        "seconds": sum(stage.seconds or 0 for stage in stages),
        "peak_memory": max((stage.peak_memory_bytes or 0 for stage in stages), default=0),
        "verdict": verdict(steps, curves),
        "waivers": report_data.waivers(stages),
        "funnel": report_data.funnel(stages),
        "choice": choice(stages),
        "forecast": report_data.forecast(stages),
        "scaling_plots": [
            (stage, title, plots.file_uri(path)) for stage, title, path in report_data.scaling_plots(stages)
        ],
        "loss_curve": plots.loss_curve(curves) if curves else None,
        "balance_curve": expert_plots.balance_curve(curves),
        "experts": [
            (loads["id"], loads["max_violation"], expert_plots.load_map(loads))
            for loads in report_data.expert_loads(stages)
        ],
        "growths": [growth(found) for found in report_data.growths(stages)],
        "needles": [(model["id"], plots.svg_uri(needle_figure([(model["id"], model["needle"])]))) for model in needles],
        "alignment": plots.alignment(steps) if steps else None,
        "scorecard": scorecard and [main_header(scorecard), *(main_row(scorecard, row) for row in scorecard["models"])],
        "samples": report_data.samples(stages),
    }


def growth(found: dict[str, Any]) -> dict[str, Any]:
    """What the page shows of one extend: both gates and the tasks like RULER's as rows, and its figure."""
    gates, figure = found["gates"], found["figure"]
    return {
        "id": found["id"],
        "gates": gate_rows(gates),
        "ruler": ruler_rows(gates),
        "figure": plots.file_uri(figure) if figure else None,
    }


def choice(stages: list[StageView]) -> dict[str, Any] | None:
    """What the scaling fit chose for pretrain, what limited it, and how far it may be trusted."""
    for stage in report_data.finished(stages, "scaling"):
        if path := stage.file("fit.json"):
            fit = read_json(path)
            return fit["choice"] | {name: fit.get(name) for name in ("budget_flops", "choice_limited_by", "cautions")}
    return None


def verdict(steps: list[dict[str, Any]], curves: list[dict[str, Any]]) -> list[str]:
    """The outcome in a sentence or two."""
    sentences = []
    if curves:
        before, after = curves[0]["training"]["validation_loss_before"], curves[-1]["training"]["validation_loss"]
        sentences.append(f"Held-out loss went from {before:.2f} to {after:.2f} nats per token.")
    if steps:
        final = next((step for step in steps if step.get("final")), steps[-1])
        first, last = _with_interval(steps[0]), _with_interval(final)
        sentences.append(f"Verified accuracy on held-out prompts went from {first} to {last}.")
    return sentences


def _with_interval(step: dict[str, Any]) -> str:
    return f"{step['accuracy']:.1%} ({step['low']:.1%} to {step['high']:.1%})"
