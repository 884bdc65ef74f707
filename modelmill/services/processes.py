"""Commands → background processes with a log and a health check, and an end that leaves none of their children behind.

Every process started here carries a token in its environment, which its children inherit whatever group or session
they move to: by it they are found again, also when their parent was killed. A process id alone may be another's by now.
"""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from modelmill.tasks.errors import ResourceError

# What the processes of a stack carry, and those of a command (see `scratch`).
STACK, COMMAND = "MODELMILL_STACK", "MODELMILL_COMMAND"


@dataclass(frozen=True)
class Service:
    """A background process as it is remembered on disk."""

    name: str
    pid: int
    created: float
    url: str
    log: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def is_running(self) -> bool:
        """Whether this very process (not another with its number) is alive."""
        try:
            process = psutil.Process(self.pid)
            return process.create_time() == self.created and is_alive(process)
        except psutil.NoSuchProcess:
            return False


def start_service(
    name: str, command: list[str], url: str, log: Path, environment: dict[str, str], token: str
) -> Service:
    """Start a command in a session of its own, its output in `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    # It is the stack's from here on, not the command's that starts it and ends before it.
    inherited = {key: value for key, value in os.environ.items() if key != COMMAND}
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env=inherited | environment | {STACK: token},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    # The process outlives this one on purpose: Popen would warn that it was not waited for.
    process.returncode = 0
    return Service(name, process.pid, psutil.Process(process.pid).create_time(), url, str(log))


def wait_until(service: Service, is_healthy: Callable[[], bool], seconds: float) -> None:
    """Return when the service is healthy.

    Raises:
        ResourceError: it ended, or was not healthy in time; with the end of its log.
    """
    deadline = time.monotonic() + seconds
    while not is_healthy():
        late = time.monotonic() > deadline
        if late or not service.is_running():
            what = f"did not answer within {seconds:.0f} s" if late else "ended while it started"
            raise ResourceError(f"{service.name} {what}. The end of its log {service.log}:\n{log_end(service.log)}")
        time.sleep(0.2)


def log_end(log: str, characters: int = 1500) -> str:
    """The last characters of a log."""
    return Path(log).read_text(encoding="utf-8", errors="replace")[-characters:].strip()


def end_service(service: Service, seconds: float) -> None:
    """Ask a process to end, and wait for it; its children are left to `end_all`."""
    if not service.is_running():
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(service.pid)
        process.terminate()
        psutil.wait_procs([process], timeout=seconds)


def end_all(token: str) -> int:
    """End every process that carries the token, wherever it went; returns how many there were."""
    ended = 0
    for attempt in range(5):
        processes = with_token(token)
        if not processes:
            break
        ended += len(processes) if attempt == 0 else 0
        for process in processes:
            _signal(process, kill=attempt > 0)
        psutil.wait_procs(processes, timeout=5)
    return ended


def with_token(token: str) -> list[psutil.Process]:
    """All processes of this user that carry the token."""
    found = []
    for process in psutil.process_iter():
        try:
            carried = process.environ()
            if process.pid != os.getpid() and token in (carried.get(STACK), carried.get(COMMAND)):
                found.append(process)
        except (psutil.Error, OSError):
            continue  # it ended meanwhile, or belongs to another user
    return [process for process in found if is_alive(process)]


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs, and has not ended without being waited for."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def stack_tokens(home: Path) -> set[str]:
    """Tokens of the stacks of a home that have processes of this user, whatever is recorded of them."""
    tokens = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            carried = process.environ()
            if carried.get("MILL_HOME") == str(home) and carried.get(STACK):
                tokens.add(carried[STACK])
    return tokens


def end_holders(folder: Path) -> None:
    """End every other process of this user that has a file of `folder` open.

    Ray's workers write their title over their environment, where a token would be.
    """
    holders = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            opened = process.open_files() if process.pid != os.getpid() else []
            if any(Path(file.path).is_relative_to(folder) for file in opened):
                process.kill()
                holders.append(process)
    psutil.wait_procs(holders, timeout=5)


def _signal(process: psutil.Process, kill: bool) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill() if kill else process.terminate()


def free_port() -> int:
    """A port of loopback that nothing uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def require_port(port: int, what: str, option: str) -> None:
    """Check that a port of loopback is free.

    Raises:
        ResourceError: it is not; names the port and the option that chooses another.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ResourceError(
                f"port {port} on 127.0.0.1, wanted for {what}, is in use by another program ({error.strerror}). "
                f"End that program, or choose another port with {option}."
            ) from error
