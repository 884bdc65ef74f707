"""SIGTERM or Ctrl-C → a word to the training loop, so that a step ends before the process does."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stop_signal() -> Iterator[list[BaseException]]:
    """A list that is not empty once the process was told to stop (SIGTERM, Ctrl-C), so that the step ends first."""
    stop: list[BaseException] = []
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    reasons: dict[int, BaseException] = {signal.SIGTERM: SystemExit(143), signal.SIGINT: KeyboardInterrupt()}
    before = {number: signal.signal(number, lambda number, _: stop.append(reasons[number])) for number in reasons}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
