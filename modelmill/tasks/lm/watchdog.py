"""Heartbeats of all processes of a run → the rank that stands still, named within a minute, and the end of the run.

Each process writes into a store that all reach (the process group's TCP store): the step and the phase that its loop is
in, where in the code its main thread is, and a pulse. A process whose collective never returns cannot raise an error,
so a thread writes, judges and ends the process.
"""

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch.distributed as dist
from torch.distributed import HashStore, Store  # pyright: ignore[reportPrivateImportUsage]

EXIT_CODE = 7
"""As `WorkerLostError`: the work itself did not fail."""
COMMUNICATION = "torch/distributed"
COMPILERS = ("torch/_dynamo/convert_frame", "torch/_inductor/compile_fx")
"""Modules on the stack of a thread while it compiles: the forward pass of a graph, and later its backward pass."""


@dataclass(frozen=True)
class Beat:
    """What one rank last said. pulse: counts the thread's writes. waits: its main thread is in torch.distributed."""

    rank: int
    step: int = -1
    phase: str = "start"
    patient: bool = True
    pulse: int = 0
    waits: bool = False
    where: str = "nowhere yet"


class Watchdog:
    """The heart of one rank: its loop calls `beat`, a thread does the rest. Made by `open_watchdog`.

    seconds: how long a rank may stand at one step; at least five times the longest step so far.
    """

    def __init__(self, store: Store, rank: int, world_size: int, seconds: float, on_hang: Callable[[str], None]):
        self.store = store
        self.ranks = range(world_size)
        self.seconds = seconds
        self.on_hang = on_hang
        self.mine = Beat(rank)
        self.pulse = 0
        self.main_thread = threading.main_thread().ident
        self.longest = 0.0
        self.changed: dict[int, tuple[Beat, float, float]] = {}
        self.stopped = threading.Event()
        self._since = time.monotonic()

    def beat(self, step: int, phase: str = "step", *, patient: bool = False) -> None:
        """Say where the loop is. `patient`: what follows may take as long as it likes (validation, the first step)."""
        now = time.monotonic()
        if not self.mine.patient:
            self.longest = max(self.longest, now - self._since)
        self._since = now
        self.mine = replace(self.mine, step=step, phase=phase, patient=patient)

    def watch(self) -> None:
        """Write and judge until told to stop."""
        interval = min(self.seconds / 6, 5.0)
        while not self.stopped.wait(interval):
            try:
                self._write()
                beats = [self._read(rank) for rank in self.ranks]
            except (dist.DistStoreError, dist.DistNetworkError, RuntimeError) as error:
                if not self.stopped.is_set():
                    self.on_hang(f"rank 0, which keeps the store of the run, does not answer any more: {error}")
                return
            if verdict := self.judge(beats, time.monotonic()):
                self.on_hang(verdict)
                return

    def judge(self, beats: list[Beat], now: float) -> str | None:
        """Who stands still, if anybody does; `now` in seconds of any clock."""
        silent, still = [], []
        limit = max(self.seconds, 5 * self.longest)
        for beat in beats:
            before, moved, heard = self.changed.get(beat.rank, (beat, now, now))
            if (beat.step, beat.phase) != (before.step, before.phase) or beat.patient:
                moved = now
            if beat.pulse != before.pulse:
                heard = now
            self.changed[beat.rank] = (beat, moved, heard)
            if now - heard > limit:
                silent.append(beat)
            elif now - moved > limit and not beat.patient:
                still.append(beat)
        if silent:
            return f"{_names(silent)} of {len(beats)} fell silent (last at step {silent[0].step}, in {silent[0].where})"
        if not still:
            return None
        last = min(map(_progress, still))
        moving = [beat for beat in beats if beat not in still]
        if any(_progress(beat) < last or (beat.patient and beat.step == last[0]) for beat in moving):
            # They wait for one whose own time is not over yet, or that may take what it likes.
            return None
        blamed = [beat for beat in still if _progress(beat) == last]
        first = blamed[0]
        return (
            f"{_names(blamed)} of {len(beats)} did not get on from step {first.step} ({first.phase}) for more than "
            f"{limit:.0f} s, in {first.where}; {len(still) - len(blamed)} other(s) wait"
        )

    def _write(self) -> None:
        frame = sys._current_frames().get(self.main_thread or 0)
        calls = traceback.extract_stack(frame) if frame else []
        own = [call for call in calls if "/modelmill/" in call.filename] or calls
        where = f"{Path(own[-1].filename).name}:{own[-1].lineno} {own[-1].name}" if own else "nowhere"
        waits = any(COMMUNICATION in call.filename for call in calls)
        # A batch with new shapes compiles a graph anew at any step, for minutes on a busy machine.
        patient = self.mine.patient or _is_compiling()
        self.pulse += 1
        beat = replace(self.mine, patient=patient, pulse=self.pulse, waits=waits, where=where)
        self.store.set(_key(beat.rank), json.dumps(asdict(beat)))

    def _read(self, rank: int) -> Beat:
        key = _key(rank)
        return Beat(**json.loads(self.store.get(key))) if self.store.check([key]) else Beat(rank)


def _key(rank: int) -> str:
    return f"modelmill/heartbeat/{rank}"


def _progress(beat: Beat) -> tuple[int, bool]:
    """Orders ranks by how far they are; of those at one step, who waits in a collective is ahead of who does not."""
    return beat.step, beat.waits


def _is_compiling() -> bool:
    """Whether any thread compiles; autograd's own threads compile the backward pass on an accelerator."""
    stacks = (traceback.walk_stack(frame) for frame in sys._current_frames().values())
    files = {frame.f_code.co_filename for stack in stacks for frame, _ in stack}
    return any(module in file for file in files for module in COMPILERS)


def _names(beats: list[Beat]) -> str:
    return ("rank " if len(beats) == 1 else "ranks ") + ", ".join(str(beat.rank) for beat in beats)


def end_process(message: str) -> None:
    """Say it on the standard error and leave: the main thread is in a call that may never return."""
    sys.stderr.write(f"Modelmill: {message}. The run ends; called again it continues from its newest state.\n")
    sys.stderr.flush()
    os._exit(EXIT_CODE)


@contextmanager
def open_watchdog(seconds: float, on_hang: Callable[[str], None] = end_process) -> Iterator[Watchdog]:
    """Watch over the processes of the default group while a loop runs; one process alone is not watched.

    `on_hang` is called in the watching thread.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        yield Watchdog(HashStore(), 0, 1, seconds, on_hang)
        return
    store = dist.distributed_c10d._get_default_store()
    watchdog = Watchdog(store, dist.get_rank(), dist.get_world_size(), seconds, on_hang)
    thread = threading.Thread(target=watchdog.watch, name="watchdog", daemon=True)
    thread.start()
    try:
        yield watchdog
    finally:
        watchdog.stopped.set()
        thread.join()
