"""One call on several Ray workers at once → the first one's result. They find each other by address, as under torchrun.

Plain actors rather than ray.train's TorchTrainer: that one took 55 s to start and end two workers on two cores, and
what it adds (a process group, reports, checkpoints) the training loop has already.
"""

import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

from modelmill.tasks.errors import MillError, ResourceError, WorkerLostError

# How long to wait for free cores and devices, and, once a member failed, for what the others say, in seconds.
_SECONDS_TO_START = 120
_SECONDS_TO_END = 10


class Member:
    """One process of a gang, in an actor of its own."""

    def address(self) -> tuple[str, int]:
        """Where the others can reach this one."""
        import ray

        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    def run(self, call: Callable[[], Any], environment: dict[str, str]) -> Any:
        """The call, in an environment that names this process's place."""
        os.environ.update(environment)
        return call()


class RayGang:
    """An executor (see `compute`) whose every call runs on `num_processes` workers at once."""

    def __init__(self, num_processes: int, num_workers: int, device: str) -> None:
        self.num_workers = num_workers
        self._num_processes = num_processes
        on_gpu = device == "cuda"
        self._cores = 1 if on_gpu else max(1, num_workers // num_processes)
        self._gpus = 1 if on_gpu else 0
        self._members: list[Any] = []
        self._group: Any = None

    def submit(self, call: Callable[[], Any], name: str, exclusive: bool) -> list[Any]:
        """Start the gang; a future for each member.

        Raises:
            ResourceError: there are not enough cores or devices for all members at once.
        """
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        self._reserve()
        options: dict[str, Any] = {"num_cpus": self._cores, "num_gpus": self._gpus, "max_restarts": 0}
        actor = ray.remote(**options)(Member)
        self._members = [
            actor.options(
                name=f"{name}-{rank}-{os.urandom(4).hex()}",
                scheduling_strategy=PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=rank),
            ).remote()
            for rank in range(self._num_processes)
        ]
        host, port = ray.get(self._members[0].address.remote())
        # Ray shows a worker its own GPU only, so each is the first one of its process.
        common = {"MASTER_ADDR": host, "MASTER_PORT": str(port), "WORLD_SIZE": str(self._num_processes)}
        return [
            member.run.remote(call, common | {"RANK": str(rank), "LOCAL_RANK": "0"})
            for rank, member in enumerate(self._members)
        ]

    def next_done(self, futures: Sequence[list[Any]]) -> list[Any]:
        """Wait until all members are done, or one failed, which would leave the others waiting for it."""
        import ray

        waiting = list(futures[0])
        while waiting:
            try:
                done, waiting = ray.wait(waiting, num_returns=1, timeout=1.0)
            except SystemError as error:
                # Ray's compiled wait reports a signal that arrived inside it in this wrapping.
                raise KeyboardInterrupt from error
            if any(_error(future) for future in done):
                if waiting:
                    ray.wait(waiting, num_returns=len(waiting), timeout=_SECONDS_TO_END)
                break
        return futures[0]

    def result(self, future: list[Any]) -> Any:
        """The first member's result.

        Raises:
            WorkerLostError: a member or its node died. Whatever the function raised is raised as itself.
        """
        import ray
        from ray import exceptions

        ended, _ = ray.wait(future, num_returns=len(future), timeout=0)
        errors = [error for error in map(_error, ended) if error is not None]
        result = None if errors else ray.get(future[0])
        self.cancel([])
        for error in errors:
            if isinstance(error, exceptions.RayTaskError) and isinstance(error.cause, MillError):
                raise error.cause from None
        for error in errors:
            if isinstance(error, (exceptions.RayActorError, exceptions.OutOfMemoryError)):
                raise WorkerLostError(f"a worker of {self._num_processes} was lost: {error}") from error
        if errors:
            raise errors[0]
        return result

    def cancel(self, futures: Sequence[Any]) -> None:
        """End all members: what they wrote is whole, and the next run continues from it."""
        import ray
        from ray.util import remove_placement_group

        for member in self._members:
            ray.kill(member)
        self._members = []
        if self._group is not None:
            remove_placement_group(self._group)
            self._group = None

    def _reserve(self) -> None:
        """All places or none: half a gang would wait for the other half and keep its cores.

        A cluster may grow while this waits; a local Ray never does.
        """
        import ray
        from ray.util import placement_group

        bundle: dict[str, float] = {"CPU": self._cores}
        if self._gpus:
            bundle["GPU"] = self._gpus
        self._group = placement_group([bundle] * self._num_processes, strategy="PACK")
        has = ray.cluster_resources()
        grows = "RAY_ADDRESS" in os.environ
        fits = all(has.get(name, 0) >= size * self._num_processes for name, size in bundle.items())
        if not (fits or grows) or not self._group.wait(_SECONDS_TO_START):
            found = {name: ray.available_resources().get(name, 0) for name in bundle}
            self.cancel([])
            raise ResourceError(
                f"the compute file's layout has {self._num_processes} processes, each with {bundle}; free are {found}. "
                "Use a smaller layout, more workers or another machine."
            )


def _error(future: Any) -> BaseException | None:
    """What a finished future failed with."""
    import ray

    try:
        ray.get(future)
    except Exception as error:  # noqa: BLE001 - the boundary that tells failures by kind
        return error
    return None
