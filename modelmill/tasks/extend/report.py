"""gates.json → the tables of the summary, and the figure of facts found by depth and length."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from modelmill.tasks.files import atomic_path

Cells = Sequence[Mapping[str, Any]]
Rows = list[list[str]]


def states(gates: Mapping[str, Any]) -> list[tuple[str, Cells, Cells]]:
    """(name, needle cells, cells of the tasks like RULER's) of the model before the first step and after each."""
    before = ("before", gates["before"]["needle"], gates["before"]["ruler"])
    return [before] + [
        (f"after {step['sequence_length']}", step["needle"]["grid"], step["ruler"]) for step in gates["steps"]
    ]


def gate_rows(gates: Mapping[str, Any]) -> Rows:
    """A header, and a row a step: both gates with their limits."""
    rows = [["length", "short text, bits per byte", "facts found up to this length"]]
    for step in gates["steps"]:
        short, needle = step["short"], step["needle"]
        rows.append(
            [
                f"{step['sequence_length']}",
                f"{short['bits_per_byte']:.4f} (limit {short['limit']:.4f})",
                f"{needle['accuracy']:.0%} (limit {needle['limit']:.0%})",
            ]
        )
    return rows


def gate_table(gates: Mapping[str, Any]) -> str:
    """`gate_rows` in markdown."""
    return _markdown(gate_rows(gates))


def needle_table(gates: Mapping[str, Any]) -> str:
    """One row a model and length, one column a depth, in markdown."""
    depths = sorted({cell["depth"] for cell in gates["before"]["needle"]})
    rows = [["model", "length", *(f"{depth:.0%}" for depth in depths)]]
    for name, needle, _ in states(gates):
        for length in sorted({cell["length"] for cell in needle}):
            found = {cell["depth"]: f"{cell['accuracy']:.0%}" for cell in needle if cell["length"] == length}
            rows.append([name, f"{length}", *(found[depth] for depth in depths)])
    return _markdown(rows)


def ruler_rows(gates: Mapping[str, Any]) -> Rows:
    """A header, and a row a model and length, with one column a task; empty where nothing was measured."""
    tasks = list(dict.fromkeys(cell["task"] for cell in gates["before"]["ruler"][::-1]))[::-1]
    if not tasks:
        return []
    rows = [["model", "length", *tasks]]
    for name, _, ruler in states(gates):
        for length in sorted({cell["length"] for cell in ruler}):
            right = {cell["task"]: f"{cell['accuracy']:.0%}" for cell in ruler if cell["length"] == length}
            rows.append([name, f"{length}", *(right.get(task, "–") for task in tasks)])
    return rows


def ruler_table(gates: Mapping[str, Any]) -> str:
    """`ruler_rows` in markdown; empty where nothing was measured."""
    rows = ruler_rows(gates)
    return _markdown(rows) if rows else ""


def _markdown(rows: Rows) -> str:
    header, *others = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([header, "|" + "---|" * len(rows[0]), *others])


def last_ruler(gates: Mapping[str, Any]) -> dict[str, float]:
    """Share of right items of each task at the greatest length, after the last step."""
    cells = gates["steps"][-1]["ruler"]
    longest = max((cell["length"] for cell in cells), default=0)
    return {cell["task"]: cell["accuracy"] for cell in cells if cell["length"] == longest}


def needle_figure(maps: Sequence[tuple[str, Cells]]) -> Figure:
    """One map a model (its name and cells): share of facts found, by depth (down) and length (across)."""
    widths = [max(0.62 * len({cell["length"] for cell in needle}), 1.5) for _, needle in maps]
    tallest = max(len({cell["depth"] for cell in needle}) for _, needle in maps)
    figure = Figure(figsize=(1.0 + sum(widths), 1.5 + 0.32 * tallest), layout="constrained")
    panels = figure.subplots(1, len(maps), sharey=True, squeeze=False, width_ratios=widths)[0]
    for axes, (name, needle) in zip(panels, maps, strict=True):
        lengths, depths = (sorted({cell[key] for cell in needle}) for key in ("length", "depth"))
        found = {(cell["depth"], cell["length"]): cell["accuracy"] for cell in needle}
        grid = np.array([[found[depth, length] for length in lengths] for depth in depths])
        axes.imshow(grid, vmin=0, vmax=1, cmap="Blues", aspect="auto")
        axes.set_xticks(range(len(lengths)), [_short(length) for length in lengths])
        axes.set_yticks(range(len(depths)), [f"{depth:.0%}" for depth in depths])
        axes.set_title(name, fontsize=10)
        for (row, column), value in np.ndenumerate(grid):
            colour = "white" if value > 0.55 else "black"
            axes.text(column, row, f"{value:.0%}", ha="center", va="center", color=colour, fontsize=8)
    panels[0].set_ylabel("depth of the fact")
    figure.suptitle("share of facts found", fontsize=10)
    figure.supxlabel("context (tokens)", fontsize=10)
    return figure


def _short(length: int) -> str:
    """131072 → 128k, as contexts are called."""
    return f"{length // 1024}k" if length >= 8192 and length % 1024 == 0 else str(length)


def write_needle_figure(path: Path, gates: Mapping[str, Any]) -> None:
    """The maps before the first step and after each, as SVG."""
    figure = needle_figure([(name, needle) for name, needle, _ in states(gates)])
    # A fixed salt and no date: equal figures are equal bytes.
    with matplotlib.rc_context({"svg.hashsalt": "modelmill"}), atomic_path(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})
