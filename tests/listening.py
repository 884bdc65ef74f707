"""Which sockets a process and its descendants listen on, and a watch over those of the test run itself."""

import ipaddress
import os
import threading
import time
from typing import NamedTuple

import psutil


class Socket(NamedTuple):
    """A socket that others can send to, and the name of its process."""

    process: str
    address: str
    port: int


def listening(root: psutil.Process, kind: str = "inet") -> set[Socket]:
    """Every TCP and UDP socket of a process and its descendants that waits for others."""
    sockets: set[Socket] = set()
    try:
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return sockets
    for process in family:
        try:
            name, connections = process.name(), process.net_connections(kind=kind)
        except (psutil.Error, OSError):
            continue  # it ended meanwhile
        waiting = [each for each in connections if each.status in (psutil.CONN_LISTEN, psutil.CONN_NONE)]
        sockets |= {Socket(name, *each.laddr) for each in waiting if each.laddr and not each.raddr}
    return sockets


def exposed(sockets: set[Socket]) -> set[Socket]:
    """Those that are not on loopback."""
    return {found for found in sockets if not _is_loopback(found.address)}


def _is_loopback(text: str) -> bool:
    address = ipaddress.ip_address(text)
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


class ListeningWatch:
    """Looks every second whether this process or a descendant listens elsewhere than on loopback; takes some ms."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], str] = {}
        self._thread = threading.Thread(target=self._watch, name="listening-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def take(self) -> list[str]:
        """A line for each exposed socket that is new, with the test in which it was first seen."""
        new, self.found = self.found, {}
        return [f"{name} listens on {address}, first seen in {test}" for (name, address), test in new.items()]

    def _watch(self) -> None:
        while True:
            time.sleep(1)
            for socket in exposed(listening(psutil.Process(), "tcp")):
                self.found.setdefault(
                    (socket.process, socket.address), os.environ.get("PYTEST_CURRENT_TEST", "no test")
                )
