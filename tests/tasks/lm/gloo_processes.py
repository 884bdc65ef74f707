"""Functions that run on several gloo processes; results by process 0."""

import multiprocessing
import os
import pickle
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing

from modelmill.tasks.lm.parallel.rendezvous import join_group


def on_processes(number: int, function: Callable[..., Any], folder: Path, *arguments: Any) -> Any:
    """`function(*arguments)` on `number` processes that have joined; what process 0 returns."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    result = folder / "result.pickle"
    # A server that has imported the libraries once forks the processes: an import takes 8 s of CPU.
    multiprocessing.set_forkserver_preload([function.__module__, "torch.distributed.checkpoint"])
    torch.multiprocessing.start_processes(  # pyright: ignore[reportPrivateImportUsage]
        _process, (number, port, result, function, arguments), nprocs=number, start_method="forkserver"
    )
    return pickle.loads(result.read_bytes())


def _process(rank: int, number: int, port: int, result: Path, function: Callable[..., Any], arguments: Any) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": str(number)}
    torch.set_num_threads(1)
    join_group("gloo")
    value = function(*arguments)
    if rank == 0:
        result.write_bytes(pickle.dumps(value))
    dist.barrier()
    dist.destroy_process_group()
