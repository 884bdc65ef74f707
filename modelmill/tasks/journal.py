"""What happens inside a running stage → lines in `journal.jsonl`, which the flow follows for progress and metrics.

A file rather than a callback: stage code may run in another process or on another node, and must import neither
Prefect, Ray nor MLflow. Lines are small appends, so several writers do not tear each other's lines.
"""

import json
import os
import time
from pathlib import Path
from typing import Any


class Journal:
    """Append-only log of one stage's progress and metrics. Picklable: it holds only a path."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def progress(self, label: str, done: float, total: float, unit: str = "") -> None:
        """Say that `done` of `total` units of the piece of work named `label` are finished."""
        self._append({"kind": "progress", "label": label, "done": done, "total": total, "unit": unit})

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Record measured values at a step (a training step, a round, a shard index)."""
        self._append({"kind": "metrics", "step": step, "values": values})

    def note(self, text: str) -> None:
        """Say something a person following the run should read (a waiver, a retry, a skipped batch)."""
        self._append({"kind": "note", "text": text})

    def _append(self, event: dict[str, Any]) -> None:
        line = json.dumps(event | {"time": time.time()}) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)


def read_events(path: Path, offset: int) -> tuple[list[dict[str, Any]], int]:
    """Complete lines after a byte offset, less those that a full disk cut, and the offset behind the last of them."""
    if not path.exists():
        return [], offset
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read()
    complete = data[: data.rfind(b"\n") + 1]
    events = [event for line in complete.splitlines() if (event := _event(line))]
    return events, offset + len(complete)


def _event(line: bytes) -> dict[str, Any] | None:
    """One event; None for a line that a power cut left torn: progress is not worth a stage."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "kind" in event else None
