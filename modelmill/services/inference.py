"""Where a line samples → a sampler: vLLM in a Ray actor, or in this process when the compute has no Ray."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modelmill.services.compute import Compute
from modelmill.services.vllm_sampler import VllmSampler
from modelmill.tasks.errors import MillError, WorkerLostError
from modelmill.tasks.stage import Sample


class RaySampler:
    """`VllmSampler` in a Ray actor, so that the process that drives the line stays small.

    The actor is started by the first call and lives until `close`. When it dies, a new one takes over (sampling is a
    pure function of its arguments) until `lost_workers` were lost.
    """

    def __init__(self, log: Path, device: str = "cpu", num_threads: int | None = None, lost_workers: int = 2) -> None:
        self._log = log
        self._arguments = {"device": device, "num_threads": num_threads}
        self._lost_workers = lost_workers
        self._actor: Any = None
        self._loaded: dict[str, Any] = {}

    def load(self, folder: Path, max_length: int) -> None:
        """See `Sampler.load`."""
        self._loaded = {}
        self._call("load", folder=folder, max_length=max_length)
        self._loaded = {"folder": folder, "max_length": max_length}

    def sample(self, prompts: Sequence[Sequence[int]], **options: Any) -> list[list[Sample]]:
        """See `Sampler.sample`."""
        return self._call("sample", prompts=[list(prompt) for prompt in prompts], **options)

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """See `Sampler.score`."""
        return self._call("score", sequences=[list(sequence) for sequence in sequences])

    def process(self) -> int:
        """The actor's process id."""
        import ray

        return ray.get(self._started().process.remote())

    def close(self) -> None:
        """End the actor."""
        if self._actor is not None:
            import ray

            ray.kill(self._actor)
            self._actor = None

    def _call(self, method: str, **arguments: Any) -> Any:
        """Errors of the call are raised as themselves.

        Raises:
            WorkerLostError: the actor died more often than allowed; the message ends with the last lines of its log.
        """
        import ray
        from ray import exceptions

        for lost in range(self._lost_workers + 1):
            try:
                return ray.get(self._started().call.remote(method, arguments))
            except exceptions.RayTaskError as error:
                if isinstance(error.cause, MillError):
                    raise error.cause from None
                raise
            except exceptions.RayActorError as error:
                self._actor = None
                if lost == self._lost_workers:
                    raise WorkerLostError(
                        f"the inference service died {lost + 1} times during `{method}`; often this is memory. "
                        f"The last lines of {self._log}:\n{_tail(self._log) or error}"
                    ) from error

    def _started(self) -> Any:
        import ray

        if self._actor is None:
            # No CPU is reserved: while it samples nothing else of the line runs, and while others run it sleeps.
            remote = ray.remote(num_cpus=0, num_gpus=0.4 if self._arguments["device"] == "cuda" else 0)(_SamplerActor)
            self._actor = remote.remote(self._log, self._arguments)
            if self._loaded:
                ray.get(self._actor.call.remote("load", self._loaded))
        return self._actor


class _SamplerActor:
    """What runs in the Ray worker; all that it and the libraries under it print goes to `log`."""

    def __init__(self, log: Path, arguments: dict[str, Any]) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        self._sampler = VllmSampler(**arguments)

    def process(self) -> int:
        return os.getpid()

    def call(self, method: str, arguments: dict[str, Any]) -> Any:
        return getattr(self._sampler, method)(**arguments)


def start_sampler(compute: Compute) -> VllmSampler | RaySampler:
    """The sampler of one line run: an actor where the compute has Ray, otherwise in this process."""
    device = compute.device()
    if compute.config.backend == "process":
        return VllmSampler(device)
    compute.start()
    return RaySampler(compute.home / "logs" / "sampler.log", device, lost_workers=compute.config.lost_workers)


def _tail(log: Path, num_lines: int = 15) -> str:
    """The last lines of a log; empty when it lies on another machine."""
    if not log.exists():
        return ""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-num_lines:])
