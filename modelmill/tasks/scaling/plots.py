"""Fitted laws → SVG figures: isoFLOP curves, and the fitted against the measured losses."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from modelmill.tasks.files import atomic_path
from modelmill.tasks.lm.shape import count_parameters
from modelmill.tasks.scaling.choice import CountedLaw, ProxyRun
from modelmill.tasks.scaling.isoflop import BudgetLosses, IsoFlop

# Okabe and Ito's colours, which stay apart for every kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def write_figures(
    folder: Path, iso_flop: IsoFlop, budgets: Sequence[BudgetLosses], law: CountedLaw, runs: Sequence[ProxyRun]
) -> None:
    """Write isoflop.svg and law.svg."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    draw_isoflop(figure.subplots(), iso_flop, budgets)
    _save(figure, folder / "isoflop.svg")
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    draw_law(figure.subplots(), law, runs)
    _save(figure, folder / "law.svg")


def draw_isoflop(axes: Axes, iso_flop: IsoFlop, budgets: Sequence[BudgetLosses]) -> None:
    """Measured losses, one parabola a budget, a ring at each measured optimum."""
    for number, (budget, parabola) in enumerate(zip(budgets, iso_flop.parabolas, strict=True)):
        colour = COLOURS[number % len(COLOURS)]
        sizes = np.geomspace(min(budget.parameters), max(budget.parameters), 100)
        axes.plot(budget.parameters, budget.losses, "o", color=colour, label=f"{budget.flops:.2g} FLOPs")
        axes.plot(sizes, parabola.at(sizes), "-", color=colour, linewidth=1)
        if parabola.inside and parabola.optimum and parabola.loss:
            axes.plot(parabola.optimum.value, parabola.loss, "o", color=colour, markersize=11, fillstyle="none")
    _scale(axes, "parameters")
    axes.set_title("Loss by size at equal compute")
    axes.legend(frameon=False)


def draw_law(axes: Axes, law: CountedLaw, runs: Sequence[ProxyRun]) -> None:
    """Losses against tokens: dots are measured, lines are the law, one colour a size."""
    shapes = {count_parameters(run.shape): run.shape for run in runs}
    for number, (size, shape) in enumerate(sorted(shapes.items())):
        colour = COLOURS[number % len(COLOURS)]
        points = sorted((run.tokens, run.loss) for run in runs if run.shape == shape)
        tokens = np.geomspace(points[0][0] / 1.2, points[-1][0] * 1.5, 100)
        axes.plot(*zip(*points, strict=True), "o", color=colour, label=f"{size / 1e6:.2f}M parameters")
        axes.plot(tokens, law.fitted.law.loss(law.size(shape), tokens), "-", color=colour, linewidth=1)
    _scale(axes, "training tokens")
    axes.set_title("Measured losses and the fitted law L(N, D)")
    axes.legend(frameon=False)


def _scale(axes: Axes, quantity: str) -> None:
    """A logarithmic axis with labels such as 50k and 1M; the default ones run into each other over one decade."""
    axes.set(xscale="log", xlabel=quantity, ylabel="validation loss (nats per token)")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _save(figure: Figure, path: Path) -> None:
    # A fixed salt and no date: equal figures are equal bytes.
    with matplotlib.rc_context({"svg.hashsalt": "modelmill"}), atomic_path(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})
