"""A survey, or traces of a document → one self-contained HTML page."""

import time
from pathlib import Path

from modelmill.flows.html_page import write_page
from modelmill.flows.look.stage import DataStage
from modelmill.flows.look.survey import Survey
from modelmill.flows.look.trace import Trace


def write_survey(look: Survey, stage: DataStage, command: str, path: Path) -> Path:
    """The page of a stage. `command` makes it again."""
    date = time.strftime("%d %B %Y, %H:%M", time.localtime(stage.manifest["created"]))
    return write_page("look.html", path, look=look, command=command, date=date, span=size_span)


def write_traces(traces: list[Trace], stage: str, recipe: str, wanted: str, command: str, path: Path) -> Path:
    """The page of one document. Its text is open at `stage`."""
    return write_page(
        "look_trace.html", path, traces=traces, stage=stage, recipe=recipe, wanted=wanted, command=command
    )


def size_span(least: int, most: int | None) -> str:
    """A range of sizes in words."""
    if most is None:
        return f"{least} and more"
    return str(least) if least == most else f"{least} to {most}"
