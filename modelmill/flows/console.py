"""Events of a running line → progress bars and short messages in the terminal."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from modelmill.flows.observers import StageStarted
from modelmill.flows.plan import PlanEntry
from modelmill.tasks.errors import MillError

_COLOURS = {
    "reuse": "green",
    "resume": "yellow",
    "build": "cyan",
    "follows": "blue",
    "failed": "red",
    "damaged": "red",
    "waiting": "dim",
    "started": "yellow",
    "earlier": "dim",
}


class ConsoleObserver:
    """Shows one bar for the stage that runs, and leaves one line a finished stage. A context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[detail]}", markup=False),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> "ConsoleObserver":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def stage_started(self, event: StageStarted) -> None:
        self._drop_bar()
        because = f" because {shortened(event.why)}"
        self._console.print(Text.assemble((event.id, "bold"), " ", coloured(event.status), because))
        self._task = self._progress.add_task(event.id, total=None, detail="")

    def stage_event(self, stage_id: str, event: dict[str, Any]) -> None:
        if event["kind"] == "note":
            self._console.print(Text.assemble((f"  {stage_id}:", "yellow"), f" {event['text']}"))
        elif self._task is not None and event["kind"] == "progress":
            detail = f"{event['done']:,.0f} of {event['total']:,.0f} {event['unit']}"
            self._progress.update(
                self._task,
                description=f"{stage_id} · {event['label']}",
                completed=event["done"],
                total=event["total"] or None,
                detail=detail,
            )
        elif self._task is not None and "loss" in event.get("values", {}):
            self._progress.update(self._task, detail=f"step {event['step']:,}  loss {event['values']['loss']:.3f}")

    def stage_finished(self, stage_id: str, manifest: dict[str, Any], artifact: Path, reused: bool) -> None:
        self._drop_bar()
        counts = manifest["counts"]
        what = f"{counts['in']:,} → {counts['out']:,} {counts['unit']}"
        word = coloured("reuse") if reused else Text("done", "green")
        facts = f" {stage_id}: {what}, {manifest['seconds']:.1f} s, artifact {manifest['digest'][:12]}"
        self._console.print(Text.assemble("  ", word, facts))
        for waiver in manifest["waivers"]:
            self._console.print(Text.assemble(("  waived:", "yellow"), f" {waiver}"))

    def stage_failed(self, stage_id: str, error: BaseException) -> None:
        self._drop_bar()
        if isinstance(error, KeyboardInterrupt):
            self._console.print(Text.assemble(("  stopped", "yellow"), f" in {stage_id}"))
        else:
            # A user's mistake is said once, at the end; what nobody foresaw may be tried again, so it is said here.
            reason = "" if isinstance(error, MillError) else f": {type(error).__name__}: {error}"
            self._console.print(Text.assemble(("  failed", "red"), f" {stage_id}{reason[:500]}"))

    def _drop_bar(self) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None


def coloured(status: str) -> Text:
    """A status in its colour."""
    return Text(status, _COLOURS.get(status, "white"))


def shortened(why: tuple[str, ...], limit: int = 3) -> str:
    """The first reasons, and how many more there are (`mill why STAGE` prints all, in full)."""
    more = f" and {len(why) - limit} more" if len(why) > limit else ""
    return "; ".join(text if len(text) <= 120 else f"{text[:119]}…" for text in why[:limit]) + more


def plan_table(entries: list[PlanEntry]) -> Table:
    """A plan for the terminal."""
    table = Table(box=None, pad_edge=False)
    for name in ("stage", "plan", "why", "key"):
        table.add_column(name)
    table.add_column("last time", justify="right")
    for entry in entries:
        seconds = f"{entry.seconds:.1f} s" if entry.seconds is not None else "unknown"
        table.add_row(entry.id, coloured(entry.status), shortened(entry.why), (entry.key or "")[:12], seconds)
    return table


def stage_table(stages: list[dict[str, Any]]) -> Table:
    """The stages of a line's newest run for the terminal."""
    table = Table(box=None, pad_edge=False)
    for name in ("stage", "status", "in", "out", "seconds", "peak memory", "artifact", "why"):
        table.add_column(name, justify="right" if name in ("in", "out", "seconds", "peak memory") else "left")
    for stage in stages:
        counts = stage.get("counts") or {}
        table.add_row(
            stage["id"],
            coloured(stage["status"]),
            f"{counts['in']:,}" if counts else "",
            f"{counts['out']:,} {counts['unit']}" if counts else "",
            f"{stage['seconds']:.1f}" if stage.get("seconds") is not None else "",
            f"{stage['peak_memory_bytes'] / 1e9:.2f} GB" if stage.get("peak_memory_bytes") else "",
            (stage.get("digest") or "")[:12],
            stage.get("error") or shortened(tuple(stage.get("why", ())), 1),
        )
    return table
