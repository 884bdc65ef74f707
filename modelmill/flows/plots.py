"""Figures of a line → SVG plots as data URIs, which a page can hold without any other file."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FixedLocator, NullLocator

from modelmill.tasks.files import named_output, write_output

# Okabe and Ito's palette, which people who see colours differently can tell apart.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "svg.fonttype": "none",
    "figure.constrained_layout.use": True,
}


def svg_uri(figure: Figure) -> str:
    """A figure as an SVG data URI; closes it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(figure)
    return _uri(buffer.getvalue())


def file_uri(path: Path) -> str:
    """An SVG file as a data URI."""
    return _uri(path.read_bytes())


def _uri(svg: bytes) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode()


def loss_curve(stages: list[dict[str, Any]]) -> str:
    """Training and held-out loss of all stages over the tokens of the whole line, and the learning rate below."""
    with plt.rc_context(STYLE):
        figure, (top, bottom) = plt.subplots(
            2, 1, figsize=(8.4, 5.2), sharex=True, gridspec_kw={"height_ratios": [3, 1]}
        )
        for index, stage in enumerate(in_turn(stages)):
            _draw_stage(top, bottom, stage, COLOURS[index % len(COLOURS)])
        top.set_ylabel("loss (nats per token)")
        top.legend(frameon=False, title="lines: training, diamonds: held-out")
        bottom.set_ylabel("learning rate")
        bottom.set_ylim(bottom=0)
        mark_tokens((top, bottom), stages)
        return svg_uri(figure)


def in_turn(stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The stages of a line with their curves' tokens counted from the line's first one."""
    start, found = 0, []
    for stage in stages:
        found.append(stage | {"lines": [line | {"tokens": start + line["tokens"]} for line in stage["lines"]]})
        start = max([line["tokens"] for line in found[-1]["lines"]], default=start)
    return found


def mark_tokens(panels: Sequence[Any], stages: list[dict[str, Any]]) -> None:
    """Tokens of the whole line on the axis across, and a dotted line where each stage ends."""
    ends = [max(line["tokens"] for line in stage["lines"]) for stage in in_turn(stages) if stage["lines"]]
    for axes in panels:
        for end in ends:
            axes.axvline(end, color="#888", linewidth=0.6, linestyle=":")
    panels[-1].set_xlabel("tokens seen")
    panels[-1].xaxis.set_major_formatter(EngFormatter(sep=""))


def _draw_stage(top: Any, bottom: Any, stage: dict[str, Any], colour: str) -> None:
    trained = [line for line in stage["lines"] if "loss" in line]
    held = [line for line in stage["lines"] if "validation_loss" in line]
    x = [line["tokens"] for line in trained]
    label = f"{stage['id']}, {stage['training'].get('sequence_length', '?')} tokens a row"
    # A stage of few steps has one line of figures: a point.
    line_style: dict[str, Any] = {"color": colour, "marker": "." if len(x) < 3 else None}
    top.plot(x, [line["loss"] for line in trained], linewidth=1.4, label=label, **line_style)
    top.plot(
        [line["tokens"] for line in held],
        [line["validation_loss"] for line in held],
        "D",
        color=colour,
        markersize=5,
        markeredgecolor="white",
    )
    bottom.plot(x, [line["learning_rate"] for line in trained], linewidth=1.6, **line_style)


def alignment(steps: list[dict[str, Any]]) -> str:
    """Verified accuracy on held-out prompts by step, with 95 % intervals."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(8.4, 3.2))
        x = range(len(steps))
        accuracy = [step["accuracy"] for step in steps]
        below = [step["accuracy"] - step["low"] for step in steps]
        above = [step["high"] - step["accuracy"] for step in steps]
        axes.errorbar(x, accuracy, yerr=[below, above], fmt="o-", color=COLOURS[0], capsize=4, linewidth=1.4)
        for position, step in enumerate(steps):
            axes.annotate(
                f"{step['accuracy']:.3f}",
                (position, step["high"]),
                textcoords="offset points",
                xytext=(0, 5),
                ha="center",
                fontsize=9,
            )
        axes.set_xticks(list(x), [str(step["step"]) for step in steps], rotation=0 if len(steps) < 9 else 30)
        axes.set_ylim(0, min(1.08, max(step["high"] for step in steps) * 1.15 + 0.02))
        axes.set_ylabel("verified accuracy")
        return svg_uri(figure)


def plan_figure(title: str, stretches: list[dict[str, Any]]) -> Figure:
    """What holds at each number of tokens over the training stages: four lines, and the shares of the domains."""
    panels = ("learning rate", "tokens per step", "tokens per row", "rotary base", "mixture")
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(5, 1, figsize=(9, 10), sharex=True, height_ratios=(3, 2, 2, 2, 2))
        figure.suptitle(title)
        start = 0.0
        for index, stretch in enumerate(stretches):
            x = [start + tokens for tokens in stretch["tokens"]]
            for panel, name in zip(axes[:4], panels, strict=False):
                panel.plot(x, stretch[name], color=COLOURS[index % len(COLOURS)], linewidth=1.6, label=stretch["label"])
            for panel in axes:
                panel.axvline(x[-1], color="#888", linewidth=0.6, linestyle=":")
            start = x[-1]
        for panel, name in zip(axes, panels, strict=True):
            panel.set_ylabel(name)
        for panel, name in zip(axes[1:4], panels[1:4], strict=True):
            _mark_values(panel, sorted({value for stretch in stretches for value in stretch[name]}))
        axes[0].set_ylim(bottom=0)
        axes[0].legend(frameon=False, fontsize=8)
        _draw_mixtures(axes[4], stretches)
        axes[4].set_xlabel("tokens")
        axes[4].xaxis.set_major_formatter(EngFormatter(sep=""))
    return figure


def _mark_values(axes: Any, values: list[float]) -> None:
    """A logarithmic axis that is marked where the values are, the largest first, as far as there is room."""
    axes.set_yscale("log")
    axes.set_ylim(values[0] / 1.5, values[-1] * 1.5)
    marked = [values[-1]]
    for value in reversed(values):
        if (values[-1] * 2.25 / values[0]) ** 0.12 < marked[-1] / value:
            marked.append(value)
    axes.yaxis.set_major_locator(FixedLocator(marked))
    axes.yaxis.set_major_formatter(lambda value, _: EngFormatter(sep="")(value) if value >= 1e6 else f"{value:,.0f}")
    axes.yaxis.set_minor_locator(NullLocator())


def _draw_mixtures(axes: Any, stretches: list[dict[str, Any]]) -> None:
    """Shares of the domains, stacked; grey where the weights are those of the tokens."""
    used = [weights for stretch in stretches for weights in stretch["mixture"] if weights]
    domains = sorted({domain for weights in used for domain in weights})
    names = [*domains, "as the tokens have it"]
    x, shares, start = [], [], 0.0
    for stretch in stretches:
        for tokens, weights in zip(stretch["tokens"], stretch["mixture"], strict=True):
            total = sum(weights.values()) if weights else 1.0
            x.append(start + tokens)
            shares.append([(weights or {}).get(domain, 0.0) / total for domain in domains] + [0.0 if weights else 1.0])
        start = x[-1]
    colours = [*(COLOURS[index % len(COLOURS)] for index in range(len(domains))), "#cccccc"]
    axes.stackplot(x, list(zip(*shares, strict=True)), labels=names, colors=colours, alpha=0.8)
    axes.set_ylim(0, 1)
    axes.legend(frameon=False, fontsize=8, loc="upper left")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, SVG or an HTML page that holds the SVG; closes it."""
    if path.suffix == ".html":
        page = f'<!doctype html><meta charset="utf-8"><title>{path.stem}</title><img src="{svg_uri(figure)}" alt="">'
        write_output(path, page)
        return
    with named_output(path) as temporary:
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(temporary, format=path.suffix[1:], dpi=130, metadata=metadata)
    plt.close(figure)
