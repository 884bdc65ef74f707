"""A survey, or traces of a document → one self-contained HTML page."""

import time
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from modelmill.flows.look.stage import DataStage
from modelmill.flows.look.survey import Survey
from modelmill.flows.look.text import visible
from modelmill.flows.look.trace import Trace
from modelmill.tasks.files import write_output


def write_survey(look: Survey, stage: DataStage, command: str, path: Path) -> Path:
    """The page of a stage. `command` makes it again."""
    date = time.strftime("%d %B %Y, %H:%M", time.localtime(stage.manifest["created"]))
    return _write("look.html", path, look=look, command=command, date=date, span=size_span)


def write_traces(traces: list[Trace], stage: str, recipe: str, wanted: str, command: str, path: Path) -> Path:
    """The page of one document. Its text is open at `stage`."""
    return _write("look_trace.html", path, traces=traces, stage=stage, recipe=recipe, wanted=wanted, command=command)


def size_span(least: int, most: int | None) -> str:
    """A range of sizes in words."""
    if most is None:
        return f"{least} and more"
    return str(least) if least == most else f"{least} to {most}"


def percent(share: float) -> str:
    """A share in per cent; a small one is not rounded to nothing."""
    return "< 0.1 %" if 0 < share < 0.001 else f"{100 * share:.1f} %"


def _write(template: str, path: Path, **values: Any) -> Path:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("modelmill.flows"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_safe,
        trim_blocks=True,
    )
    environment.filters["number"] = lambda value: f"{value:,.0f}"
    environment.filters["percent"] = percent
    page = environment.get_template(template).render(**values)
    write_output(path, page)
    return path


def _safe(value: Any) -> Any:
    """Everything that a template writes passes here, before it is escaped."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
