"""Results of a sweep → SVG figures: one for each law, measured points beside what was fitted to them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter, StrMethodFormatter

from modelmill.tasks.files import atomic_path
from modelmill.tasks.lm.shape import count_parameters
from modelmill.tasks.scaling.batch import BatchLaws
from modelmill.tasks.scaling.choice import CountedLaw, ProxyRun
from modelmill.tasks.scaling.downstream import TwoSteps
from modelmill.tasks.scaling.isoflop import BudgetLosses, IsoFlop
from modelmill.tasks.scaling.learning_rate import BestRate, RateTrial
from modelmill.tasks.scaling.results import MixtureTrials, Results
from modelmill.tasks.scaling.transfer import Transfer

# Okabe and Ito's colours, which stay apart for every kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def write_figures(folder: Path, results: Results) -> None:
    """Write isoflop.svg, law.svg, learning_rate.svg, and one figure of each experiment that was made."""
    drawings: dict[str, Callable[[Axes], None]] = {
        "isoflop": lambda axes: draw_isoflop(axes, results.iso_flop, results.budgets),
        "law": lambda axes: draw_law(axes, results.law, results.runs),
        "learning_rate": lambda axes: draw_rates(axes, results.rate_trials, results.rates.best),
    }
    if found := results.transfer:
        drawings["transfer"] = lambda axes: draw_transfer(axes, found.trials, found.transfer)
    if batch := results.batch:
        drawings["batch"] = lambda axes: draw_batches(axes, batch)
    if mixtures := results.mixtures:
        drawings["mixture"] = lambda axes: draw_mixtures(axes, mixtures)
    if two_steps := results.two_steps:
        drawings["suite"] = lambda axes: draw_suite(axes, results.runs, two_steps)
    for name, draw in drawings.items():
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        draw(figure.subplots())
        _save(figure, folder / f"{name}.svg")


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


def draw_rates(axes: Axes, trials: Sequence[RateTrial], best: Sequence[BestRate], title: str = "") -> None:
    """Losses against learning rates, one line a width and budget, a ring at each valley."""
    for number, found in enumerate(best):
        colour = COLOURS[number % len(COLOURS)]
        points = sorted(
            (trial.learning_rate, trial.loss)
            for trial in trials
            if (trial.hidden_size, trial.flops) == (found.hidden_size, found.flops)
        )
        label = f"width {found.hidden_size}, {found.flops:.2g} FLOPs"
        axes.plot(*zip(*points, strict=True), "o-", color=colour, linewidth=1, label=label)
        if found.inside:
            axes.plot(found.learning_rate, found.loss, "o", color=colour, markersize=11, fillstyle="none")
    _scale(axes, "learning rate")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_title(title or "Loss by learning rate")
    axes.legend(frameon=False)


def draw_transfer(axes: Axes, trials: Sequence[RateTrial], transfer: Transfer) -> None:
    """The base rates at each width with muP's groups."""
    draw_rates(axes, trials, transfer.best, "muP: does the best base rate stay?")


def draw_batches(axes: Axes, laws: BatchLaws) -> None:
    """Losses against batch sizes at equal tokens, one parabola a budget, a ring at each valley."""
    draw_isoflop(axes, laws.by_compute, laws.curves_by_compute)
    axes.set(xlabel="tokens per step", title="Loss by batch size at equal compute")


def draw_mixtures(axes: Axes, found: MixtureTrials) -> None:
    """Mean loss over domains: the law's against the measured one, and what the chosen mixture is forecast to reach."""
    weights, losses = np.array(found.weights), np.array(found.losses).mean(axis=1)
    fitted = found.law.losses(weights).mean(axis=1)
    axes.plot(losses, fitted, "o", color=COLOURS[0], label="drawn mixtures")
    axes.plot(losses[0], fitted[0], "o", color=COLOURS[1], label="curate's mixture")
    best = np.array([[found.choice.best[domain] for domain in found.law.domains]])
    level = float(found.law.losses(best).mean())
    axes.axhline(level, color=COLOURS[2], linewidth=1, label="the law's best mixture")
    ends = [min(losses.min(), level), max(losses.max(), fitted.max())]
    axes.plot(ends, ends, "-", color="0.7", linewidth=1, zorder=0)
    axes.set(xlabel="measured mean loss over domains (nats per token)", ylabel="the mixing law's")
    axes.set_title("Mixtures of domains")
    axes.legend(frameon=False)


def draw_suite(axes: Axes, runs: Sequence[ProxyRun], two_steps: TwoSteps) -> None:
    """Accuracy against nats per character: dots are measured, the line is the sigmoid."""
    points = [(run.answer_nll, run.accuracy) for run in runs if run.answer_nll is not None]
    axes.plot(*zip(*points, strict=True), "o", color=COLOURS[0], label="proxies")
    nll = np.linspace(0.5 * min(x for x, _ in points), 1.02 * max(x for x, _ in points), 200)
    axes.plot(nll, two_steps.sigmoid(nll), "-", color=COLOURS[0], linewidth=1, label="sigmoid")
    axes.axhline(two_steps.chance, color="0.7", linewidth=1, label="chance")
    axes.set(xlabel="nats per character of the right answers", ylabel="accuracy", title="Suite: accuracy by likelihood")
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
