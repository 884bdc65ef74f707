"""The processes of a running stage → the peak of the memory that they hold together."""

import threading
from types import TracebackType

import psutil

_INTERVAL = 0.5


class PeakMemory:
    """Samples this process, its descendants and a local Ray's; `peak_bytes` is the largest sum seen.

    Shared pages (Ray's object store, libraries) are counted once, as the largest share of any process.
    """

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="peak-memory", daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while True:
            self.peak_bytes = max(self.peak_bytes, held_bytes())
            if self._stop.wait(_INTERVAL):
                return


def held_bytes() -> int:
    """Bytes of memory held by this process and its descendants now."""
    private = shared = 0
    for process in _family():
        try:
            memory = process.memory_info()
        except psutil.Error:
            continue
        private += memory.rss - getattr(memory, "shared", 0)
        shared = max(shared, getattr(memory, "shared", 0))
    return private + shared


def _family() -> list[psutil.Process]:
    own = psutil.Process()
    try:
        return [own, *own.children(recursive=True)]
    except psutil.Error:
        return [own]
