"""One call on several Ray workers at once → the first one's result. They find each other by address, as under torchrun.

Plain actors rather than ray.train's TorchTrainer: that one took 55 s to start and end two workers on two cores, and
what it adds (a process group, reports, checkpoints) the training loop has already.
"""

import os
import socket
from collections.abc import Callable, Sequence
from math import ceil
from typing import Any

from modelmill.tasks.errors import MillError, ResourceError, WorkerLostError
from modelmill.tasks.loopback import LOOPBACK

# How long to wait for cores and devices that a cluster may get, for those that it has, and, once a member failed, for
# what the others say, in seconds.
SECONDS_TO_GROW = 120
_SECONDS_TO_FREE = 60
_SECONDS_TO_END = 10
# Of a GPU, a member takes so much: no two share one, and what the sampler holds (0.4) fits beside it.
_GPU_SHARE = 0.6


class Member:
    """One process of a gang, in an actor of its own."""

    def address(self) -> str:
        """Where other machines can reach this one."""
        import ray

        return ray.util.get_node_ip_address()

    def free_port(self, host: str) -> int:
        """A port of this one's machine that nothing uses now."""
        with socket.socket() as probe:
            probe.bind((host, 0))
            return probe.getsockname()[1]

    def run(self, call: Callable[[], Any], environment: dict[str, str]) -> Any:
        """The call, in an environment that names this process's place."""
        os.environ.update(environment)
        return call()


class RayGang:
    """An executor (see `compute`) whose every call runs on `num_processes` workers at once."""

    def __init__(self, num_processes: int, cores: int, device: str, *, may_grow: bool) -> None:
        """`cores`: of each process; `may_grow`: whether it is worth waiting for what a cluster has not yet."""
        self._num_processes = num_processes
        self._bundle: dict[str, float] = {"CPU": cores}
        if device == "cuda":
            self._bundle["GPU"] = _GPU_SHARE
        self._may_grow = may_grow
        self._members: list[Any] = []
        self._group: Any = None
        self.hosts: set[str] = set()

    def submit(self, call: Callable[[], Any], name: str, exclusive: bool) -> list[Any]:
        """Start the gang; a future for each member.

        Raises:
            ResourceError: there are not enough cores or devices for all members at once.
            WorkerLostError: the first member or its node died meanwhile.
        """
        import ray
        from ray import exceptions
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        self._reserve()
        cores, gpus = self._bundle["CPU"], self._bundle.get("GPU", 0)
        actor = ray.remote(num_cpus=cores, num_gpus=gpus, max_restarts=0)(Member)
        self._members = [
            actor.options(
                name=f"{name}-{rank}-{os.urandom(4).hex()}",
                scheduling_strategy=PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=rank),
            ).remote()
            for rank in range(self._num_processes)
        ]
        try:
            addresses = ray.get([member.address.remote() for member in self._members])
            self.hosts = set(addresses)
            # Processes of one machine need no network, so none can reach them over it.
            host = addresses[0] if len(self.hosts) > 1 else LOOPBACK
            port = ray.get(self._members[0].free_port.remote(host))
        except exceptions.RayActorError as error:
            self.cancel([])
            raise WorkerLostError(f"a worker of {self._num_processes} was lost before it began: {error}") from error
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

        fits = num_places(self._bundle) >= self._num_processes
        grows = self._may_grow and "RAY_ADDRESS" in os.environ
        if fits or grows:
            self._group = placement_group([self._bundle] * self._num_processes, strategy="PACK")
        if self._group is None or not self._group.wait(SECONDS_TO_GROW if grows else _SECONDS_TO_FREE):
            found = {name: ray.available_resources().get(name, 0) for name in self._bundle}
            self.cancel([])
            raise ResourceError(
                f"the compute file's layout has {self._num_processes} processes, each with {self._bundle}; free are "
                f"{found}. Use a smaller layout, more workers or another machine."
            )


def num_places(bundle: dict[str, float]) -> int:
    """How many times the nodes that are alive have a bundle of resources, whether free or not; each part of a GPU is on
    a GPU of its own."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(min(int(node.get(name, 0) // ceil(size)) for name, size in bundle.items()) for node in nodes)


def _error(future: Any) -> BaseException | None:
    """What a finished future failed with."""
    import ray

    try:
        ray.get(future)
    except Exception as error:  # noqa: BLE001 - the boundary that tells failures by kind
        return error
    return None
