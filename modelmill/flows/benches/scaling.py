"""Planted laws, proxies and perhaps a user's texts → what the scaling stage makes of them, beside its peers."""

from pathlib import Path
from typing import Any

from rich.console import Console

from modelmill.flows.benches import forecast, planted_laws, proxies
from modelmill.flows.benches.measured import Measured, check_place
from modelmill.flows.benches.tables import show_measured
from modelmill.tasks.errors import InputError


def bench_scaling(console: Console, texts: Path | None, home: Path, workers: int, output: Path | None) -> None:
    """Measure, print tables, and write JSON to `output` if given.

    texts: a folder of <domain>_<name>.jsonl[.gz] files with `text`; then a sweep of proxies forecasts a run, which is
    made, and `home` keeps the artifacts of both.

    Raises:
        InputError: no folder of texts, or none for the output.
    """
    check_place(output)
    if texts and not texts.is_dir():
        raise InputError(f"no folder {texts}; expected one of <domain>_<name>.jsonl[.gz] files with `text`")
    console.print("measuring fits of planted laws", highlight=False)
    measured = planted_laws.measure()
    console.print("measuring proxies", highlight=False)
    measured += proxies.measure()
    if texts:
        console.print(f"measuring a forecast in {home}; called again, it goes on", highlight=False)
        measured.append(forecast_row(forecast.measure(texts, home, workers=workers)))
    console.print()
    show_measured(console, measured, output)


def forecast_row(found: dict[str, Any]) -> Measured:
    """What `forecast.measure` found, as a line of the table."""
    low, high = found["interval"]
    quality = {
        "forecast": found["forecast"],
        "lowest": low,
        "highest": high,
        "measured": found["measured"],
        "error": found["error"],
        "sweep_flops": found["sweep_flops"],
        "law_noise": found["law_noise"],
        "sweep_seconds": found["seconds"]["scaling"],
        "run_seconds": found["seconds"]["pretrain"],
        "workers": found["workers"],
    }
    times = found["compute_of_largest_proxy"]
    return Measured(f"forecast at {times:.1f} times the largest proxy's compute", "modelmill", quality=quality)
