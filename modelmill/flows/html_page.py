"""A template and values → one self-contained HTML file, on which no text of a page or model can act."""

from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from modelmill.tasks.files import write_output
from modelmill.tasks.text.visible import visible


def write_page(template: str, path: Path, **values: Any) -> Path:
    """Write a template of `templates/`; what it shows is escaped, and characters that could deceive are spelled out."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("modelmill.flows"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
    )
    environment.filters["number"] = lambda value: f"{value:,.0f}"
    environment.filters["percent"] = percent
    page = environment.get_template(template).render(**values)
    write_output(path, page)
    return path


def percent(share: float) -> str:
    """A share in per cent; a small one is not rounded to nothing."""
    return "< 0.1 %" if 0 < share < 0.001 else f"{100 * share:.1f} %"


def _shown(value: Any) -> Any:
    """Everything that a template writes passes here, before it is escaped."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
