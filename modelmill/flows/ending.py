"""A finished line → what its user sees last: scorecard, seconds per stage, report and the next commands."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from modelmill.flows.inspection import stage_views
from modelmill.flows.recipe import Line
from modelmill.tasks.files import read_json


def print_ending(console: Console, line: Line, outcome: Any, report: Path) -> None:
    """Print the end of a run. `outcome` is the `LineOutcome` of the flow."""
    if outcome.status == "skipped":
        console.print(f"skipped: another run of recipe {line.name} is under way in this home")
        return
    views = stage_views(line.name)
    console.print()
    console.print(_seconds_table(views))
    for view in views:
        if view["stage"] == "evaluate" and view.get("path"):
            console.print(_scorecard_table(read_json(Path(view["path"]) / "scorecard.json")))
    console.print(
        f"\n{outcome.seconds:.1f} s in all, {outcome.seconds_outside:.1f} s of them outside the stages", highlight=False
    )
    console.print(f"report  {report}", highlight=False, soft_wrap=True)
    for view in views:
        if view["stage"] == "release" and view.get("path"):
            console.print(f"model   {view['path']}/model", highlight=False, soft_wrap=True)
            console.print("next    mill chat · mill serve · mill up (Prefect and MLflow in the browser) · mill show")
            return
    console.print("next    mill show · mill up (Prefect and MLflow in the browser)")


def _seconds_table(views: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("stage")
    table.add_column("status")
    table.add_column("seconds", justify="right")
    for view in views:
        table.add_row(view["id"], view["status"], f"{view['seconds']:.1f}" if view["seconds"] is not None else "")
    return table


def _scorecard_table(scorecard: dict[str, Any]) -> Table:
    table = Table(title="scorecard", box=None, pad_edge=False, title_justify="left")
    table.add_column("model")
    table.add_column("bits per byte", justify="right")
    table.add_column("verified accuracy (95 %)", justify="right")
    table.add_column("needle", justify="right")
    tasks = sorted({name for model in scorecard["models"] for name in model.get("tasks") or {}})
    for name in tasks:
        table.add_column(name, justify="right")
    for model in scorecard["models"]:
        table.add_row(
            model["id"], _bits(model), _verified(model), _needle(model), *[_task(model, name) for name in tasks]
        )
    return table


def _bits(model: dict[str, Any]) -> str:
    domains = model.get("bits_per_byte") or {}
    return f"{sum(domains.values()) / len(domains):.3f}" if domains else ""


def _verified(model: dict[str, Any]) -> str:
    verified = model.get("verified")
    return f"{verified['accuracy']:.3f} ({verified['low']:.3f}-{verified['high']:.3f})" if verified else ""


def _needle(model: dict[str, Any]) -> str:
    cells = [cell["accuracy"] for cell in model.get("needle") or []]
    return f"{sum(cells) / len(cells):.2f}" if cells else ""


def _task(model: dict[str, Any], name: str) -> str:
    task = (model.get("tasks") or {}).get(name)
    return f"{task['accuracy']:.3f} ± {1.96 * task['stderr']:.3f}" if task else ""
