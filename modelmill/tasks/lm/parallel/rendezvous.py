"""RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT → this process's default group; on one machine all of it on loopback.

Left alone, PyTorch's store listens on every interface even where MASTER_ADDR is 127.0.0.1, and gloo on the address of
the machine's own name.
"""

import functools
import itertools
import os
import socket
from datetime import timedelta

import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from modelmill.tasks.loopback import is_loopback, stay_on_loopback

_TIMEOUT = timedelta(minutes=30)
_GROUPS = itertools.count()


def join_group(backend: str) -> None:
    """Join the processes that the environment names, as `torch.distributed.init_process_group` does.

    Where MASTER_ADDR is loopback, every socket is. Elsewhere the processes are on several machines, and their sockets
    are on the network between these.
    """
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    rank, number = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if not is_loopback(host):
        dist.init_process_group(backend, timeout=_TIMEOUT)
        return
    stay_on_loopback()
    # A process that joins again finds the same store: keys of its first group must not answer for the second.
    store = PrefixStore(f"group {next(_GROUPS)}", _store(host, port, rank, number))
    dist.init_process_group(backend, timeout=_TIMEOUT, store=store, rank=rank, world_size=number)


def served_store(host: str, port: int, number: int) -> TCPStore:
    """The store of `number` processes, which listens on `host` alone (port 0: any free one)."""
    listening = socket.create_server((host, port), family=_family(host), backlog=max(number, 128))
    port = listening.getsockname()[1]
    # The store owns the descriptor from here on.
    return TCPStore(
        host,
        port,
        number,
        is_master=True,
        timeout=_TIMEOUT,
        wait_for_workers=False,
        master_listen_fd=listening.detach(),
    )


@functools.cache
def _store(host: str, port: int, rank: int, number: int) -> TCPStore:
    """Kept until the process ends: others may still ask it when the first process has left its group."""
    # torchrun's agent holds the store of its own workers.
    if rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return served_store(host, port, number)
    return TCPStore(host, port, number, is_master=False, timeout=_TIMEOUT)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
