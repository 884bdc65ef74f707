"""The options of `mill look` → a page and its path, a text for the terminal, or JSON."""

import shlex
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from modelmill.flows.environment import mill_home
from modelmill.flows.inspection import print_json
from modelmill.flows.look.page import write_survey, write_traces
from modelmill.flows.look.rows import Filters
from modelmill.flows.look.stage import data_stage, require_data_stage
from modelmill.flows.look.survey import survey
from modelmill.flows.look.terminal import print_survey, print_traces
from modelmill.flows.look.trace import traces
from modelmill.services.lines import read_line
from modelmill.tasks.errors import RecipeError


def look(
    console: Console, stage: str, recipe: str | None, filters: Filters, number: int, seed: int,
    output: Path | None, as_text: bool, as_json: bool,
) -> None:  # fmt: skip
    """Show what a stage did with its rows."""
    found = data_stage(recipe, stage)
    result = survey(found, filters, number, seed)
    if as_json:
        print_json(console, asdict(result))
    elif as_text:
        print_survey(console, result)
    else:
        options = {"recipe": found.recipe, "seed": seed, "examples": number} | filters.given
        path = output or mill_home() / "reports" / f"look-{found.recipe}-{stage}.html"
        console.print(str(write_survey(result, found, _command(stage, options), path)), soft_wrap=True)


def look_for(
    console: Console, stage: str, recipe: str | None, wanted: str, filters: Filters,
    output: Path | None, as_text: bool, as_json: bool,
) -> None:  # fmt: skip
    """Follow one document through all data stages.

    Raises:
        RecipeError: filters are given besides.
    """
    if filters.given:
        others = ", ".join(f"--{name}" for name in filters.given)
        raise RecipeError(f"--id follows one document through all data stages: leave out {others}")
    name = read_line(mill_home(), recipe)["name"]
    require_data_stage(name, stage)
    found = traces(name, wanted)
    if as_json:
        print_json(console, {"recipe": name, "traces": [asdict(trace) for trace in found]})
    elif as_text:
        print_traces(console, found)
    else:
        path = output or mill_home() / "reports" / f"look-{name}-document.html"
        command = _command(stage, {"recipe": name, "id": wanted})
        console.print(str(write_traces(found, stage, name, wanted, command, path)), soft_wrap=True)


def _command(stage: str, options: dict[str, str | int]) -> str:
    return shlex.join(["mill", "look", stage, *(f"--{name}={value}" for name, value in options.items())])
