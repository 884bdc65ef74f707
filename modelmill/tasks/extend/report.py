"""gates.json → the tables of the summary, and the figure of facts found by depth and length."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from modelmill.tasks.files import atomic_path

Cells = Sequence[Mapping[str, Any]]


def states(gates: Mapping[str, Any]) -> list[tuple[str, Cells, Cells]]:
    """(name, needle cells, cells of the tasks like RULER's) of the model before the first step and after each."""
    before = ("before", gates["before"]["needle"], gates["before"]["ruler"])
    return [before] + [
        (f"after {step['sequence_length']}", step["needle"]["grid"], step["ruler"]) for step in gates["steps"]
    ]


def gate_table(gates: Mapping[str, Any]) -> str:
    """One row a step: both gates with their limits."""
    rows = [
        f"| {step['sequence_length']} | {step['short']['bits_per_byte']:.4f} (limit {step['short']['limit']:.4f}) | "
        f"{step['needle']['accuracy']:.0%} (limit {step['needle']['limit']:.0%}) |"
        for step in gates["steps"]
    ]
    return "\n".join(["| length | short text, bits per byte | facts found up to this length |", "|---|---|---|", *rows])


def needle_table(gates: Mapping[str, Any]) -> str:
    """One row a model and length, one column a depth."""
    depths = sorted({cell["depth"] for cell in gates["before"]["needle"]})
    header = ["model", "length", *(f"{depth:.0%}" for depth in depths)]
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    for name, needle, _ in states(gates):
        for length in sorted({cell["length"] for cell in needle}):
            found = {cell["depth"]: f"{cell['accuracy']:.0%}" for cell in needle if cell["length"] == length}
            lines.append(f"| {name} | {length} | {' | '.join(found[depth] for depth in depths)} |")
    return "\n".join(lines)


def ruler_table(gates: Mapping[str, Any]) -> str:
    """One row a model and length, one column a task; empty where nothing was measured."""
    tasks = list(dict.fromkeys(cell["task"] for cell in gates["before"]["ruler"][::-1]))[::-1]
    if not tasks:
        return ""
    lines = [f"| model | length | {' | '.join(tasks)} |", "|" + "---|" * (len(tasks) + 2)]
    for name, _, ruler in states(gates):
        for length in sorted({cell["length"] for cell in ruler}):
            right = {cell["task"]: f"{cell['accuracy']:.0%}" for cell in ruler if cell["length"] == length}
            lines.append(f"| {name} | {length} | {' | '.join(right.get(task, '–') for task in tasks)} |")
    return "\n".join(lines)


def last_ruler(gates: Mapping[str, Any]) -> dict[str, float]:
    """Share of right items of each task at the greatest length, after the last step."""
    cells = gates["steps"][-1]["ruler"]
    longest = max((cell["length"] for cell in cells), default=0)
    return {cell["task"]: cell["accuracy"] for cell in cells if cell["length"] == longest}


def write_needle_figure(path: Path, gates: Mapping[str, Any]) -> None:
    """One map a model: share of facts found, by depth (down) and length (across)."""
    maps = states(gates)
    figure = Figure(figsize=(0.8 + 2.4 * len(maps), 2.8), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(maps), sharey=True))
    for axes, (name, needle, _) in zip(panels, maps, strict=True):
        lengths, depths = (sorted({cell[key] for cell in needle}) for key in ("length", "depth"))
        found = {(cell["depth"], cell["length"]): cell["accuracy"] for cell in needle}
        grid = np.array([[found[depth, length] for length in lengths] for depth in depths])
        axes.imshow(grid, vmin=0, vmax=1, cmap="cividis", aspect="auto")
        axes.set_xticks(range(len(lengths)), [str(length) for length in lengths])
        axes.set_yticks(range(len(depths)), [f"{depth:.0%}" for depth in depths])
        axes.set(title=name, xlabel="context (tokens)")
        for (row, column), value in np.ndenumerate(grid):
            colour = "black" if value > 0.5 else "white"
            axes.text(column, row, f"{value:.0%}", ha="center", va="center", color=colour, fontsize=8)
    panels[0].set_ylabel("depth of the fact")
    # A fixed salt and no date: equal figures are equal bytes.
    with matplotlib.rc_context({"svg.hashsalt": "modelmill"}), atomic_path(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})
