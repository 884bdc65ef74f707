"""Results of a sweep → SVG figures: one for each law, measured points beside what was fitted to them."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter, PercentFormatter, StrMethodFormatter

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
# Sizes, budgets and widths have an order, so their colours have one: from dark to light, with a marker each for paper.
_ORDERED = matplotlib.colormaps["viridis"]
_MARKERS = "osD^vP<X>p"
# Where a logarithmic axis of fewer decades than so many is labelled, within each decade.
_TICKS = ((0.5, (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8)), (1.2, (1, 1.5, 2, 3, 5, 7)), (3.0, (1, 2, 5)), (1e9, (1,)))
_LOSS = "validation loss (nats per token)"
_ABOVE = "loss above the line's optimum (nats per token)"


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
    for name, draw in drawings.items():
        figure = Figure(figsize=(7.6, 4.2), layout="constrained")
        draw(figure.subplots())
        _save(figure, folder / f"{name}.svg")
    if results.two_steps:
        figure = Figure(figsize=(9.2, 4.2), layout="constrained")
        by_compute, by_nats = figure.subplots(1, 2)
        draw_suite(by_compute, by_nats, results.runs, results.two_steps)
        _save(figure, folder / "suite.svg")


def draw_isoflop(axes: Axes, iso_flop: IsoFlop, budgets: Sequence[BudgetLosses]) -> None:
    """Measured losses, one parabola a budget, a ring at each measured optimum."""
    for budget, parabola, (colour, marker) in zip(budgets, iso_flop.parabolas, _shades(len(budgets)), strict=True):
        sizes = np.geomspace(min(budget.parameters), max(budget.parameters), 100)
        axes.plot(budget.parameters, budget.losses, marker, color=colour, label=_flops(budget.flops))
        axes.plot(sizes, parabola.at(sizes), "-", color=colour, linewidth=1)
        if parabola.inside and parabola.optimum and parabola.loss:
            _ring(axes, parabola.optimum.value, parabola.loss, colour)
    axes.set(xlabel="parameters", ylabel=_LOSS, title="Loss by size at equal compute")
    _scale(axes)
    _legend(axes, "marks: measured\nlines: parabolas\nrings: optima within the sizes")


def draw_law(axes: Axes, law: CountedLaw, runs: Sequence[ProxyRun]) -> None:
    """Losses against tokens: marks are measured, lines are the law, one colour a size."""
    shapes = sorted({count_parameters(run.shape): run.shape for run in runs}.items())
    for (size, shape), (colour, marker) in zip(shapes, _shades(len(shapes)), strict=True):
        points = sorted((run.tokens, run.loss) for run in runs if run.shape == shape)
        tokens = np.geomspace(points[0][0] / 1.2, points[-1][0] * 1.5, 100)
        axes.plot(*zip(*points, strict=True), marker, color=colour, label=_count(size))
        axes.plot(tokens, law.fitted.law.loss(law.size(shape), tokens), "-", color=colour, linewidth=1)
    axes.set(xlabel="training tokens", ylabel=_LOSS, title="Measured losses and the fitted law L(N, D)")
    _scale(axes)
    _legend(axes, "marks: measured\nlines: the law\n\nparameters")


def draw_rates(axes: Axes, trials: Sequence[RateTrial], best: Sequence[BestRate]) -> None:
    """Losses above the optimum against learning rates, one line a width and budget, a ring at each valley."""
    for found, (colour, marker) in zip(best, _shades(len(best)), strict=True):
        rates, losses = zip(
            *sorted(
                (trial.learning_rate, trial.loss - found.loss)
                for trial in trials
                if (trial.hidden_size, trial.flops) == (found.hidden_size, found.flops)
            ),
            strict=True,
        )
        label = f"width {found.hidden_size}, {_flops(found.flops)}:\nloss {found.loss:.3f} at {found.learning_rate:.2g}"
        axes.plot(rates, losses, f"{marker}-", color=colour, linewidth=1, label=label)
        if found.inside:
            _ring(axes, found.learning_rate, 0.0, colour)
            around = found.learning_rate * np.geomspace(0.5, 2, 50)
            above = found.curvature * np.log(around / found.learning_rate) ** 2
            axes.plot(around, above, ":", color=colour, linewidth=1)
    axes.set(xlabel="learning rate", ylabel=_ABOVE, title="Loss by learning rate")
    _scale(axes)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    _legend(axes, "marks: measured\ndotted, rings: parabola\nthrough the lowest three")


def draw_transfer(axes: Axes, trials: Sequence[RateTrial], transfer: Transfer) -> None:
    """The base rates at each width with muP's groups."""
    draw_rates(axes, trials, transfer.best)
    axes.set(xlabel="base learning rate", title="muP: does the best base rate stay?")


def draw_batches(axes: Axes, laws: BatchLaws) -> None:
    """Losses above the optimum against batch sizes at equal compute, one parabola a budget, a ring at each valley."""
    curves, parabolas = laws.curves_by_compute, laws.by_compute.parabolas
    for curve, parabola, (colour, marker) in zip(curves, parabolas, _shades(len(curves)), strict=True):
        measured = parabola.inside and parabola.optimum and parabola.loss
        lowest = parabola.loss if measured and parabola.loss else min(curve.losses)
        batches = np.geomspace(min(curve.parameters), max(curve.parameters), 100)
        label = f"{_flops(curve.flops)}:\nloss {lowest:.3f}"
        if measured and parabola.optimum:
            label += f" at {parabola.optimum.value:,.0f}"
            _ring(axes, parabola.optimum.value, 0.0, colour)
        axes.plot(curve.parameters, np.array(curve.losses) - lowest, marker, color=colour, label=label)
        axes.plot(batches, parabola.at(batches) - lowest, "-", color=colour, linewidth=1)
    axes.set(xlabel="tokens per step", ylabel=_ABOVE, title="Loss by batch size at equal compute")
    _scale(axes)
    _legend(axes, "marks: measured\nlines: parabolas\nrings: optima within the sizes")


def draw_mixtures(axes: Axes, found: MixtureTrials) -> None:
    """Mean loss over domains: the law's against the measured one, and what the chosen mixture is forecast to reach."""
    weights, losses = np.array(found.weights), np.array(found.losses).mean(axis=1)
    fitted = found.law.losses(weights).mean(axis=1)
    axes.plot(losses[1:], fitted[1:], "o", color=COLOURS[0], label="drawn mixtures")
    axes.plot(losses[0], fitted[0], "s", color=COLOURS[1], label="curate's mixture")
    best = np.array([[found.choice.best[domain] for domain in found.law.domains]])
    level = float(found.law.losses(best).mean())
    shares = "\n".join(f"  {domain} {found.choice.best[domain]:.0%}" for domain in found.law.domains)
    axes.axhline(level, color=COLOURS[2], linewidth=1.4, label=f"forecast of the\nlaw's best mixture:\n{shares}")
    ends = [min(losses.min(), level), max(losses.max(), fitted.max())]
    axes.plot(ends, ends, "--", color="0.5", linewidth=1, zorder=0, label="fitted = measured")
    axes.set(xlabel="measured loss, mean over domains (nats per token)")
    axes.set(ylabel="loss of the mixing law (nats per token)", title="Mixtures of domains")
    _legend(axes)


def draw_suite(by_compute: Axes, by_nats: Axes, runs: Sequence[ProxyRun], two_steps: TwoSteps) -> None:
    """Both steps: nats per character of the right answers against FLOPs, and accuracy against these nats."""
    points = [(run.flops, run.answer_nll, run.accuracy) for run in runs if run.answer_nll is not None]
    flops, nats, accuracy = (np.array(column, float) for column in zip(*points, strict=True))
    by_compute.plot(flops, nats, "o", color=COLOURS[0], label="proxies")
    line = np.geomspace(flops.min(), flops.max(), 2)
    fitted = two_steps.intercept + two_steps.slope * np.log10(line)
    by_compute.plot(line, fitted, "-", color=COLOURS[1], label="through the best of each budget")
    by_compute.set(xlabel="FLOPs", ylabel="nats per character of the right answers", title="Step 1: by compute")
    by_compute.set_xscale("log")
    by_compute.set_xticks(sorted(set(flops)), [_flops(value, unit="") for value in sorted(set(flops))])
    by_compute.xaxis.set_minor_formatter(NullFormatter())
    by_compute.legend(frameon=False)
    by_nats.plot(nats, accuracy, "o", color=COLOURS[0], label="proxies")
    reach = np.linspace(0.5 * nats.min(), 1.02 * nats.max(), 200)
    by_nats.plot(reach, two_steps.sigmoid(reach), "-", color=COLOURS[1], label="sigmoid")
    by_nats.axhline(two_steps.chance, color="0.5", linestyle="--", linewidth=1, label="chance")
    by_nats.set(xlabel="nats per character of the right answers", ylabel="accuracy", title="Step 2: accuracy")
    by_nats.set_ylim(0, 1)
    by_nats.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    by_nats.legend(frameon=False)


def _shades(count: int) -> Iterator[tuple[tuple[float, float, float, float], str]]:
    """A colour and a marker for each of `count` things in their order; the lightest still reads on white paper."""
    for number in range(count):
        yield _ORDERED(0.85 * number / max(count - 1, 1)), _MARKERS[number % len(_MARKERS)]


def _ring(axes: Axes, x: float, y: float, colour: object) -> None:
    axes.plot(x, y, "o", color=colour, markersize=12, fillstyle="none")


def _flops(value: float, unit: str = " FLOPs") -> str:
    """4e11 → 4×10^11 FLOPs, as matplotlib sets formulas."""
    digits, _, power = f"{value:.1e}".partition("e")
    return rf"${digits.removesuffix('.0')}\times10^{{{int(power)}}}${unit}"


def _count(size: int) -> str:
    """530 thousand → 530k, 1.5 million → 1.50M."""
    return EngFormatter(places=0 if size < 1e6 else 2, sep="")(size)


def _legend(axes: Axes, title: str | None = None) -> None:
    """Beside the axes, where it hides no point."""
    legend = axes.legend(
        frameon=False, title=title, loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0, fontsize=9
    )
    legend.get_title().set(fontsize=9, color="0.35")
    legend.set_alignment("left")


def _scale(axes: Axes) -> None:
    """A logarithmic axis with labels such as 50k and 1M, as many as there is room for."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    decades = np.log10(high / low)
    subs = next(subs for limit, subs in _TICKS if decades < limit)
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.25)


def _save(figure: Figure, path: Path) -> None:
    # A fixed salt and no date: equal figures are equal bytes.
    with matplotlib.rc_context({"svg.hashsalt": "modelmill"}), atomic_path(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})
