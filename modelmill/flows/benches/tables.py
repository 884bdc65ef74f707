"""What benches measured, as rows of facts → tables for a terminal."""

import dataclasses
import datetime
import json
import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from modelmill.flows.benches.measured import Measured
from modelmill.tasks.files import write_output

Row = dict[str, Any]
"""The fields of `Measured`, with `of_ours` and perhaps `megabytes_per_second`."""
_OURS = "modelmill"


def show_measured(console: Console, measured: Sequence[Measured], output: Path | None) -> None:
    """Print the rates and the quality of what has any, and write both as JSON to `output` if given."""
    rows = with_ratios([dataclasses.asdict(each) for each in measured])
    for table, shown in ((rates_table, [row for row in rows if row["rate"]]), (quality_table, rows)):
        if shown:
            console.print(table(shown))
            console.print()
    if output:
        date = datetime.datetime.now(datetime.UTC).date().isoformat()
        figures = {"date": date, "machine": machine(), "rows": rows}
        write_output(output, json.dumps(figures, indent=1) + "\n")


def machine() -> Row:
    """What figures depend on, and how busy it is."""
    system = {"cores": os.cpu_count(), "architecture": platform.machine(), "python": platform.python_version()}
    return system | {"load": round(os.getloadavg()[0], 1)}


def with_ratios(rows: Sequence[Row]) -> list[Row]:
    """Add `of_ours`, the rate by that of our first row of the same step and unit."""
    ours: dict[tuple[str, str], float] = {}
    for row in rows:
        if row["tool"] == _OURS and row["rate"]:
            ours.setdefault((row["step"], row["unit"]), row["rate"])
    found = []
    for row in rows:
        first = ours.get((row["step"], row["unit"]))
        found.append(row | {"of_ours": row["rate"] / first if first and row["rate"] else None})
    return found


def rates_table(rows: Sequence[Row]) -> Table:
    """One line a tool; rates are per CPU-second of one core."""
    table = _table("rates per CPU-second")
    in_bytes = any("megabytes_per_second" in row for row in rows)
    names = ("rate", "unit", "MB/s", "of ours") if in_bytes else ("rate", "unit", "of ours")
    for name in names:
        table.add_column(name, justify="left" if name == "unit" else "right")
    table.add_column("note", ratio=1)
    for row in _each_step_once(rows):
        unit = row["unit"] if row["rate"] is not None else ""
        figures = [_number(row[name]) for name in ("megabytes_per_second", "of_ours")[not in_bytes :]]
        table.add_row(row["step"], row["tool"], _number(row["rate"]), unit, *figures, row["note"])
    return table


def quality_table(rows: Sequence[Row]) -> Table:
    """One line a tool that has figures of quality."""
    table = _table("quality")
    table.add_column("figures", ratio=1)
    for row in _each_step_once([row for row in rows if row["quality"]]):
        figures = (f"{name.replace('_', ' ')} {_number(value)}" for name, value in row["quality"].items())
        table.add_row(row["step"], row["tool"], ", ".join(figures))
    return table


def _table(title: str) -> Table:
    table = Table(box=None, pad_edge=False, title=title, title_justify="left", title_style="bold")
    for name in ("step", "tool"):
        table.add_column(name)
    return table


def _each_step_once(rows: Sequence[Row]) -> Iterator[Row]:
    """The rows, with an empty step where it is the one above."""
    before = ""
    for row in rows:
        yield row | {"step": "" if row["step"] == before else row["step"]}
        before = row["step"]


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 or value == round(value) else f"{value:.3g}"
