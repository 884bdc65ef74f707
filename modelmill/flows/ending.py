"""A finished line → what its user sees last: scorecard, seconds per stage, report and the next commands."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from modelmill.flows.inspection import run_views
from modelmill.flows.recipe import Line
from modelmill.tasks.evaluate.scorecard import main_header, main_row
from modelmill.tasks.files import read_json

_NEXT = """\
next    mill show   the stages of this run, or one of them
        mill look   the documents that a data stage kept, dropped and edited
        mill up     Prefect and MLflow in the browser"""
_NEXT_WITH_MODEL = """\
next    mill chat   talk to the model here
        mill serve  an OpenAI-compatible server with a chat page
        mill up     Prefect and MLflow in the browser"""


def print_ending(console: Console, line: Line, outcome: Any, report: Path) -> None:
    """Print the end of a run. `outcome` is the `LineOutcome` of the flow."""
    if outcome.status == "skipped":
        console.print(f"skipped: another run of recipe {line.name} is under way in this home")
        return
    views = run_views(line, outcome.stages)
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
            console.print(_NEXT_WITH_MODEL, highlight=False)
            return
    console.print(_NEXT, highlight=False)


def _seconds_table(views: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("stage")
    table.add_column("status")
    table.add_column("seconds", justify="right")
    for view in views:
        table.add_row(view["id"], view["status"], f"{view['seconds']:.1f}" if view["seconds"] is not None else "")
    return table


def _scorecard_table(scorecard: dict[str, Any]) -> Table:
    """One row a model, all domains together: a terminal has no room for each."""
    overall = {"models": [_without_domains(model) for model in scorecard["models"]]}
    table = Table(title="scorecard", box=None, pad_edge=False, padding=(0, 1, 0, 0), title_justify="left")
    for name in main_header(overall):
        table.add_column(name, justify="left" if name == "model" else "right", no_wrap=True)
    for model in overall["models"]:
        table.add_row(*main_row(overall, model))
    return table


def _without_domains(model: dict[str, Any]) -> dict[str, Any]:
    if "bits_per_byte" not in model:
        return model
    return model | {"bits_per_byte": {"all": model["bits_per_byte"]["all"]}}
