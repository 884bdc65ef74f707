"""Functions of tasks/ and their arguments → results, on Ray (local or a cluster) or in this process.

A call whose worker or node died is counted apart from a call that raised: the first is repeated up to
`lost_workers` times, the second up to `failures` times, and an error that a user must act on not at all.
Finished calls are recorded in the workspace, so nothing that must last lives in Ray.
"""

import functools
import os
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from modelmill.services.elastic import fallback_layouts
from modelmill.services.executors import ProcessExecutor, RayExecutor
from modelmill.services.ray_session import join_ray, start_ray
from modelmill.services.stack import stack_environment
from modelmill.tasks.errors import MillError, ResourceError, WorkerLostError
from modelmill.tasks.files import raise_if_disk_full, read_json, write_json
from modelmill.tasks.journal import Journal
from modelmill.tasks.lm.parallel.layout import Layout
from modelmill.tasks.stage import Call, StageConfig


class ComputeConfig(StageConfig):
    """Where a line runs. Nothing here enters a key."""

    backend: Literal["ray", "process"] = "ray"
    """`ray`: local Ray, or the cluster of RAY_ADDRESS; `process`: one call after another in this process."""
    workers: int | Literal["auto"] = "auto"
    """Calls of a data stage at the same time; auto: the cores (or the cluster's cores)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What training and sampling run on; auto takes a GPU when there is one."""
    failures: int = 1
    """How often a call that raised an unexpected error is repeated."""
    lost_workers: int = 10
    """How often a call is repeated whose worker or node died (preemption, out of memory)."""
    layout: Layout = Layout()
    """Over which processes the training stages from pretrain on are spread; by default one."""
    min_processes: int | None = Field(default=None, gt=0)
    """Fewest processes that a training run does with where Ray has no room for the layout, as after the loss of a node:
    it gets fewer data_replicate first, then fewer data_shard; none: the layout or nothing."""
    price_per_hour: float = 0.0
    """Price of all this compute for an hour, in any currency; `mill plan` multiplies it by the estimated time."""


@dataclass
class Compute:
    """The compute of one line run. Ray is started or joined when the first pool needs it."""

    config: ComputeConfig
    home: Path
    _ray_started: bool = field(default=False, init=False)

    def pool(self, workspace: Path, journal: Journal, device: str = "cpu") -> "RecordedPool":
        """A pool that records finished calls in the workspace; its calls compute on `device`."""
        if self.config.backend == "process":
            return RecordedPool(ProcessExecutor(), self.config, workspace, journal)
        self.start()
        return RecordedPool(RayExecutor(self._num_workers(), device), self.config, workspace, journal)

    def start(self) -> None:
        """Start a local Ray, or join the cluster of RAY_ADDRESS."""
        import ray

        if self.config.backend != "ray" or ray.is_initialized():
            return
        before = signal.getsignal(signal.SIGTERM)
        try:
            if address := os.environ.get("RAY_ADDRESS"):
                join_ray(self.home, of_stack=address == stack_environment(self.home).get("RAY_ADDRESS"))
            else:
                start_ray(self.home, self._num_workers())
        finally:
            if threading.current_thread() is threading.main_thread():
                # Ray's own handler would end this process wherever it is; what a stop means is the caller's to say.
                signal.signal(signal.SIGTERM, before)
        self._ray_started = True

    def device(self) -> str:
        """The device that training and sampling will use; on a cluster, that of its nodes.

        Raises:
            ResourceError: the compute file asks for CUDA and there is none.
        """
        if self.config.device == "cpu":
            return "cpu"
        cluster = os.environ.get("RAY_ADDRESS") if self.config.backend == "ray" else None
        if self._has_gpu(cluster):
            return "cuda"
        if self.config.device == "cuda":
            where = f"the Ray cluster at {cluster} has no GPU" if cluster else "this machine has no usable GPU"
            raise ResourceError(
                f"the compute file asks for device: cuda, and {where}. Run it where there is one, or choose "
                "`--compute laptop`."
            )
        return "cpu"

    def _has_gpu(self, cluster: str | None) -> bool:
        if cluster:
            import ray

            self.start()
            return ray.cluster_resources().get("GPU", 0) > 0
        import torch

        return torch.cuda.is_available()

    def stop(self) -> None:
        """Leave Ray; a local one ends."""
        if self._ray_started:
            import ray

            ray.shutdown()
            self._ray_started = False

    def _num_workers(self) -> int:
        if self.config.workers != "auto":
            return self.config.workers
        import ray

        if ray.is_initialized():
            return max(1, int(ray.cluster_resources().get("CPU", 1)))
        return len(os.sched_getaffinity(0))


def call_in(workspace: Path, function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """The body of every call: a full disk is told from a failure here, as only its text crosses process borders."""
    try:
        return function(**arguments)
    except Exception as error:
        raise_if_disk_full(error, workspace)
        raise


class RecordedPool:
    """A pool (see `modelmill.tasks.stage.Pool`) over an executor, with records of finished calls and retries."""

    def __init__(
        self, executor: ProcessExecutor | RayExecutor, config: ComputeConfig, workspace: Path, journal: Journal
    ) -> None:
        self.num_workers = executor.num_workers
        self.layout = config.layout
        self._executor = executor
        self._config = config
        self._workspace = workspace
        self._done = workspace / "done"
        self._journal = journal

    def map(self, function: Callable[..., Any], calls: Sequence[Call], label: str) -> list[Any]:
        """See `Pool.map`."""
        names = [call.name for call in calls]
        assert len(set(names)) == len(names), f"calls of {label} need distinct names"
        records = {call.name: self._done / label / f"{call.name}.json" for call in calls}
        waiting = [call for call in calls if not records[call.name].exists()]
        self._journal.progress(label, len(calls) - len(waiting), len(calls))
        self._run_all(function, waiting, label, records, len(calls))
        return [read_json(records[name])["result"] for name in names]

    def run(self, function: Callable[..., Any], arguments: dict[str, Any], label: str, layout: Any = None) -> Any:
        """See `Pool.run`."""
        attempts = _Attempts(self._config, self._journal)
        while True:
            try:
                return self._run_once(function, arguments, label, layout)
            except Exception as error:  # noqa: BLE001 - the boundary that counts failures by kind
                attempts.raise_or_count(label, error)

    def _run_once(
        self, function: Callable[..., Any], arguments: dict[str, Any], label: str, layout: Layout | None
    ) -> Any:
        if layout is None or layout.num_processes == 1:
            executor: Any = self._executor
            placed = {} if layout is None else {"layout": layout}
            call = functools.partial(call_in, self._workspace, function, arguments | placed)
            future = executor.submit(call, function.__name__, exclusive=True)
        else:
            executor, future = self._start_gang(function, arguments, label, layout)
        try:
            executor.next_done([future])
            return executor.result(future)
        except Exception:
            raise
        except BaseException:
            executor.cancel([future])
            raise

    def _start_gang(
        self, function: Callable[..., Any], arguments: dict[str, Any], label: str, layout: Layout
    ) -> tuple[Any, Any]:
        """A gang with its call, on the layout or on the first smaller one for which there is room."""
        refused: ResourceError | None = None
        for each in fallback_layouts(layout, self._config.min_processes):
            gang = self._executor.gang(each, layout)
            call = functools.partial(call_in, self._workspace, function, arguments | {"layout": each})
            try:
                future = gang.submit(call, function.__name__, exclusive=True)
            except ResourceError as error:
                refused = refused or error
                continue
            if refused:
                self._journal.note(
                    f"{label}: no room for the {layout.num_processes} processes of the layout; goes on with "
                    f"{each.num_processes} ({each.model_dump(exclude_defaults=True)}), the batch stays the same"
                )
            if len(gang.hosts) > 1:
                self._journal.note(
                    f"{label}: its processes are on {len(gang.hosts)} hosts and exchange data over the network between "
                    "them, neither encrypted nor authenticated: close that network to others"
                )
            return gang, future
        assert refused
        raise refused

    def _run_all(
        self, function: Callable[..., Any], waiting: list[Call], label: str, records: dict[str, Path], total: int
    ) -> None:
        attempts = _Attempts(self._config, self._journal)
        running: dict[Any, Call] = {}
        queue = list(reversed(waiting))
        done = total - len(waiting)
        try:
            while queue or running:
                # Two calls a worker: one runs, one waits, so that a worker never idles between calls.
                while queue and len(running) < 2 * self.num_workers:
                    call = queue.pop()
                    bound = functools.partial(call_in, self._workspace, function, call.arguments)
                    running[self._executor.submit(bound, function.__name__, exclusive=False)] = call
                future = self._executor.next_done(list(running))
                call = running.pop(future)
                try:
                    result = self._executor.result(future)
                except Exception as error:  # noqa: BLE001 - the boundary that counts failures by kind
                    attempts.raise_or_count(f"{label} {call.name}", error)
                    queue.append(call)
                    continue
                write_json(records[call.name], {"result": result})
                done += 1
                self._journal.progress(label, done, total)
        except BaseException:
            self._executor.cancel(list(running))
            raise


class _Attempts:
    """Counts lost workers apart from failures, per call."""

    def __init__(self, config: ComputeConfig, journal: Journal) -> None:
        self._config = config
        self._journal = journal
        self._failures: dict[str, int] = {}
        self._lost: dict[str, int] = {}

    def raise_or_count(self, name: str, error: Exception) -> None:
        """Raise `error` when its kind's limit is reached, otherwise note that the call is repeated."""
        if isinstance(error, WorkerLostError):
            self._lost[name] = self._lost.get(name, 0) + 1
            if self._lost[name] > self._config.lost_workers:
                raise WorkerLostError(
                    f"{name}: its worker was lost {self._lost[name]} times (limit {self._config.lost_workers}); "
                    f"the last time: {error}. Often this is memory: use fewer workers, or smaller shards."
                ) from error
            self._journal.note(f"{name}: worker lost ({self._lost[name]} of {self._config.lost_workers}), repeated")
            return
        if isinstance(error, MillError):
            raise error
        self._failures[name] = self._failures.get(name, 0) + 1
        if self._failures[name] > self._config.failures:
            raise error
        self._journal.note(f"{name}: failed ({type(error).__name__}: {error}), repeated")
