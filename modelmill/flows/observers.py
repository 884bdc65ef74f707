"""Who follows a line (console, Prefect's page, MLflow), and the thread that hands them a stage's journal."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from modelmill.tasks.journal import Journal, read_events


@dataclass(frozen=True)
class StageStarted:
    """Told to observers when a stage begins to work. status is `build` or `resume`."""

    id: str
    stage: str
    key: str
    status: str
    why: tuple[str, ...]
    recipe_part: dict[str, Any]
    inputs: list[tuple[str, str]]
    workspace: Path


class Observer(Protocol):
    """Follows a line: the console, Prefect's page, MLflow. `links` is shared by all and ends in the manifest."""

    def stage_started(self, event: StageStarted) -> None: ...

    def stage_event(self, stage_id: str, event: dict[str, Any]) -> None:
        """One journal line: kind progress {label, done, total, unit}, metrics {step, values} or note {text}."""
        ...

    def stage_finished(self, stage_id: str, manifest: dict[str, Any], artifact: Path, reused: bool) -> None: ...

    def stage_failed(self, stage_id: str, error: BaseException) -> None: ...


class Following:
    """Hands new journal lines to the observers while a stage runs."""

    def __init__(self, journal: Journal, stage_id: str, observers: Sequence[Observer]) -> None:
        self._journal, self._stage_id, self._observers = journal, stage_id, observers
        self._stop = threading.Event()
        self._offset = journal.path.stat().st_size if journal.path.exists() else 0
        self._thread = threading.Thread(target=self._follow, name=f"journal-{stage_id}", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._stop.wait(0.25):
            self._read()
        self._read()

    def _read(self) -> None:
        events, self._offset = read_events(self._journal.path, self._offset)
        for event in events:
            for observer in self._observers:
                observer.stage_event(self._stage_id, event)
