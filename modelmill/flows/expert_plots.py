"""Curves and held-out loads of a mixture of experts → SVG plots: MaxVio over tokens, and who gets the tokens."""

import math
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from modelmill.flows.plots import COLOURS, STYLE, in_turn, mark_tokens, svg_uri

_COLUMNS = 3
_ALL = "all domains"
# Pixels an inch of a map: 128 experts side by side, each three pixels wide or more.
_MAP_DPI = 216


def balance_curve(stages: list[dict[str, Any]]) -> str | None:
    """MaxVio of training batches over the tokens of the whole line; None where no stage trained a mixture of experts.

    stages: as `report_data.curves` returns them.
    """
    drawn = [stage for stage in in_turn(stages) if any("max_violation" in line for line in stage["lines"])]
    if not drawn:
        return None
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(8.4, 2.8))
        for index, stage in enumerate(drawn):
            lines = [line for line in stage["lines"] if "max_violation" in line]
            colour, x = COLOURS[index % len(COLOURS)], [line["tokens"] for line in lines]
            layers = np.array([line["max_violation_by_layer"] for line in lines])
            axes.fill_between(x, layers.min(1), layers.max(1), color=colour, alpha=0.2, linewidth=0)
            mean, marker = [line["max_violation"] for line in lines], "." if len(x) < 3 else None
            axes.plot(x, mean, color=colour, linewidth=1.6, marker=marker, label=stage["id"])
        axes.set_ylim(bottom=0)
        axes.set_ylabel("MaxVio of a batch")
        axes.legend(frameon=False, title="line: mean over layers, band: least to most")
        mark_tokens([axes], stages)
        return svg_uri(figure)


def load_map(loads: dict[str, Any]) -> str:
    """Load of each expert by layer, as a multiple of an even share: all domains together, then one map a domain.

    loads: the values of experts.json.
    """
    maps = relative_loads(loads["domains"])
    num_layers, num_experts = next(iter(maps.values())).shape
    columns = min(_COLUMNS, len(maps))
    rows = math.ceil(len(maps) / columns)
    size = (1.0 + 2.7 * columns, 0.6 + rows * (0.6 + min(0.22 * num_layers + 0.3, 3.2)))
    with plt.rc_context({**STYLE, "axes.grid": False, "axes.spines.top": True, "axes.spines.right": True}):
        shared: dict[str, Any] = {"sharex": True, "sharey": True, "squeeze": False}
        figure, panels = plt.subplots(rows, columns, figsize=size, dpi=_MAP_DPI, **shared)
        highest = max(float(load.max()) for load in maps.values())
        extent = (0.5, num_experts + 0.5, num_layers + 0.5, 0.5)
        image: Any = None
        for axes, (domain, load) in zip(panels.flat, maps.items(), strict=False):
            extent = (0.5, num_experts + 0.5, num_layers + 0.5, 0.5)
            image = axes.imshow(
                load, vmin=0, vmax=highest, cmap="Blues", aspect="auto", extent=extent, interpolation="nearest"
            )
            axes.set_title(domain, fontsize=10)
            axes.locator_params(integer=True, nbins=6)
        for number, axes in enumerate(panels.flat):
            axes.set_visible(number < len(maps))
            axes.tick_params(labelbottom=number + columns >= len(maps))
        figure.supxlabel("routed expert", fontsize=10)
        figure.supylabel("layer with experts", fontsize=10)
        bar = figure.colorbar(image, ax=panels, fraction=0.05, pad=0.02)
        bar.set_label("load (1 = even share)")
        return svg_uri(figure)


def relative_loads(domains: dict[str, Any]) -> dict[str, np.ndarray]:
    """Name → loads [layers, experts] over their mean; with several domains, all of their tokens together come first.

    domains: that part of experts.json.
    """
    loads = {domain: np.array(found["load"]) for domain, found in domains.items()}
    if len(loads) > 1:
        tokens = [found["tokens"] for found in domains.values()]
        loads = {_ALL: np.average(list(loads.values()), axis=0, weights=tokens)} | loads
    return {domain: load / load.mean(axis=1, keepdims=True) for domain, load in loads.items()}
