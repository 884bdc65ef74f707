"""Bound calls → futures and results: in this process, or as Ray tasks. What `compute`'s pools run on."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from modelmill.services.gang import RayGang
from modelmill.tasks.errors import MillError, ResourceError, WorkerLostError
from modelmill.tasks.lm.parallel.layout import Layout


class ProcessExecutor:
    """Runs each call at once in this process."""

    num_workers = 1

    def submit(self, call: Callable[[], Any], name: str, exclusive: bool) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(call())
        except BaseException as error:
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            future.set_exception(error)
        return future

    def next_done(self, futures: Sequence[Future[Any]]) -> Future[Any]:
        return futures[0]

    def result(self, future: Future[Any]) -> Any:
        return future.result()

    def cancel(self, futures: Sequence[Future[Any]]) -> None:
        """Nothing runs when this could be called."""

    def gang(self, layout: Layout, whole: Layout) -> RayGang:
        raise ResourceError(
            f"the compute file's layout has {layout.num_processes} processes, its backend is `process`, which has one; "
            "set backend: ray, or leave the layout out"
        )


class RayExecutor:
    """Runs each call as a Ray task; an exclusive one takes all of the workers' cores, or all of the largest node's.

    On a GPU, half of one is for an exclusive call or all workers together: the sampler holds most of the other half.
    """

    def __init__(self, num_workers: int, device: str = "cpu") -> None:
        self.num_workers = num_workers
        self._device = device
        self._gpus = 0.5 if device == "cuda" else 0.0

    def submit(self, call: Callable[[], Any], name: str, exclusive: bool) -> Any:
        import ray

        cpus, gpus = (self._most_cores(), self._gpus) if exclusive else (1, self._gpus / self.num_workers)
        remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(make)
        return remote.options(name=name).remote(call)

    def next_done(self, futures: Sequence[Any]) -> Any:
        import ray

        done: list[Any] = []
        while not done:
            try:
                # A time limit lets Ctrl-C through; ray.wait without one holds it back until a task ends.
                done, _ = ray.wait(list(futures), num_returns=1, timeout=1.0)
            except SystemError as error:
                # Ray's compiled wait reports a signal that arrived inside it in this wrapping.
                raise KeyboardInterrupt from error
        return done[0]

    def result(self, future: Any) -> Any:
        """The call's result.

        Raises:
            WorkerLostError: its worker or node died. Whatever the function raised is raised as itself.
        """
        import ray
        from ray import exceptions

        try:
            return ray.get(future)
        except exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, MillError):
                raise cause from None
            raise
        except (
            exceptions.WorkerCrashedError,
            exceptions.NodeDiedError,
            exceptions.OutOfMemoryError,
            exceptions.ObjectLostError,
        ) as error:
            raise WorkerLostError(f"a worker was lost: {error}") from error

    def cancel(self, futures: Sequence[Any]) -> None:
        import ray

        for future in futures:
            ray.cancel(future, force=True)

    def gang(self, layout: Layout, whole: Layout) -> RayGang:
        """An executor whose calls run on the processes of a layout at once, each with as many cores as on the whole
        one, of which it may be what is left."""
        cores = 1 if self._device == "cuda" else max(1, self.num_workers // whole.num_processes)
        return RayGang(layout.num_processes, cores, self._device, may_grow=layout == whole)

    def _most_cores(self) -> int:
        """A call has one node only; a cluster may have changed since the pool was made."""
        import ray

        nodes = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
        return max(1, min(self.num_workers, int(max(nodes, default=1))))


def make(call: Callable[[], Any]) -> Any:
    """The body of every Ray task."""
    return call()
