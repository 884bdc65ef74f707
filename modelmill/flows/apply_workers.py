"""Calls on batches of rows → their results in order, from this process or from a few others."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

from modelmill.tasks.errors import WorkerLostError
from modelmill.tasks.parent_death import end_with_parent
from modelmill.tasks.stage import Call


class Workers:
    """A process pool with a bounded queue; with one worker, this process. Also a `Pool` for global steps."""

    layout = None

    def __init__(self, num_workers: int) -> None:
        self.num_workers = max(1, num_workers)
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Workers":
        if self.num_workers > 1:
            # Not fork: Polars' and Arrow's threads would be left behind in the child, with their locks.
            context = get_context("spawn")
            self._executor = ProcessPoolExecutor(
                self.num_workers, context, initializer=_start_worker, initargs=(os.getpid(),)
            )
        return self

    def __exit__(self, *details: Any) -> None:
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)

    def stream(self, function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """Results of `function(*call)` in the order of the calls, of which few are read ahead.

        Raises:
            WorkerLostError: a worker process died. Whatever the function raised is raised as itself.
        """
        if self._executor is None:
            for call in calls:
                yield function(*call)
            return
        waiting: deque[Future[Any]] = deque()
        try:
            for call in calls:
                waiting.append(self._executor.submit(function, *call))
                if len(waiting) > 2 * self.num_workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise WorkerLostError(
                "a worker process died, most likely for want of memory; use fewer --workers"
            ) from error

    def map(self, function: Callable[..., Any], calls: Sequence[Call], label: str) -> list[Any]:
        """Results of `function(**call.arguments)` in the order of the calls."""
        return list(self.stream(call_by_name, ((function, call.arguments) for call in calls)))

    def run(self, function: Callable[..., Any], arguments: dict[str, Any], label: str, layout: Any = None) -> Any:
        """One call, in this process."""
        return function(**arguments)


def call_by_name(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """`function(**arguments)`, for a pool that passes positions only."""
    return function(**arguments)


def _start_worker(parent: int) -> None:
    # A killed parent closes no queue: a worker holds both ends of it, and would wait for ever.
    end_with_parent(parent)
    # Read by Polars, OpenMP and the tokenizers when they are first imported, which is after this.
    os.environ.update(POLARS_MAX_THREADS="1", OMP_NUM_THREADS="1", RAYON_NUM_THREADS="1")
