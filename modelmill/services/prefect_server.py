"""MILL_HOME → a Prefect API for one command: the one of PREFECT_API_URL, of `mill up`, or a server of this process.

Prefect's own temporary server is started by the first flow and keeps it waiting; this one starts while the command
still imports and plans, ends with the process that started it (also when that is killed), and uses the same database as
`mill up`, so that its runs are seen there later.
"""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import httpx

from modelmill.services.login import server_login
from modelmill.services.stack import stack_environment
from modelmill.tasks.errors import MillError, ResourceError

OWN_START_SECONDS = 180.0  # the first start creates the database; a laptop under load is slow
ANSWER_SECONDS = 20.0

_SERVER_SETTINGS = {
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
    "PREFECT_UI_ENABLED": "0",
    "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
    # Nothing here uses blocks, and of several servers that register them in a new database at once all but one fail.
    "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
}


@dataclass(frozen=True)
class PrefectApi:
    """Where Prefect's API is, and the login that it asks for, if any. `server` is the process behind it and its log, if
    that belongs to this command."""

    url: str
    login: str | None = None
    of_stack: bool = False
    server: tuple[subprocess.Popen[bytes], Path] | None = None

    @property
    def has_page(self) -> bool:
        """Whether people can look at its pages after the command."""
        return self.server is None


_ENTERED: ContextVar[PrefectApi | None] = ContextVar("prefect_api", default=None)


@contextlib.contextmanager
def prefect_api(home: Path) -> Iterator[PrefectApi]:
    """Yield a Prefect API, and set what its clients read from the environment; entered again inside, it is the same.

    Entering costs nothing, so a command enters it before its own heavy imports; `wait_until_healthy` does the waiting.
    """
    with contextlib.ExitStack() as stack:
        api = _ENTERED.get() or _known_api(home) or stack.enter_context(_own_server(home))
        stack.callback(_ENTERED.reset, _ENTERED.set(api))
        for name, value in (("PREFECT_API_URL", api.url), ("PREFECT_API_AUTH_STRING", api.login)):
            stack.callback(_set, name, os.environ.get(name))
            _set(name, value)
        yield api


def _known_api(home: Path) -> PrefectApi | None:
    if url := os.environ.get("PREFECT_API_URL"):
        return PrefectApi(url, os.environ.get("PREFECT_API_AUTH_STRING"))
    url = stack_environment(home).get("PREFECT_API_URL")
    return PrefectApi(url, server_login(home), of_stack=True) if url else None


def _set(name: str, value: str | None) -> None:
    os.environ.pop(name, None)
    if value is not None:
        os.environ[name] = value


def wait_until_healthy(api: PrefectApi) -> None:
    """Return when the Prefect API answers.

    Raises:
        ResourceError: its process ended, or it did not answer in time.
    """
    seconds = OWN_START_SECONDS if api.server else ANSWER_SECONDS
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{api.url}/health", timeout=max(1.0, deadline - time.monotonic())).status_code == 200:
                return
        if api.server and api.server[0].poll() is not None:
            raise ResourceError(f"Prefect's server ended while it started: {_last_error(api.server[1])}")
        time.sleep(0.1)
    if api.server:
        raise ResourceError(f"Prefect's server did not start within {seconds:.0f} s; its log is {api.server[1]}")
    if api.of_stack:
        raise ResourceError(
            f"the Prefect server of `mill up` at {api.url} did not answer within {seconds:.0f} s. `mill down`, then "
            "`mill up`, starts it again; or run without it after `mill down`."
        )
    raise ResourceError(
        f"the Prefect API at {api.url} did not answer within {seconds:.0f} s. Start that server (`mill up` starts one "
        "here), or unset PREFECT_API_URL: then each command starts a server of its own."
    )


def _last_error(log: Path) -> str:
    """The sentence of an error of Modelmill's own in a log, or where to look."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    own = (line for line in reversed(lines) if line.startswith(f"{MillError.__module__}."))
    return next((line.partition(": ")[2] for line in own), f"its log {log} says why")


@contextlib.contextmanager
def _own_server(home: Path) -> Iterator[PrefectApi]:
    log = home / "prefect" / "server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    login = server_login(home)
    with socket.socket() as listening, log.open("w") as output:
        # Listening here rather than in the server: no other process can take the port in between.
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)
        process = subprocess.Popen(
            [sys.executable, "-m", "modelmill.flows.prefect_process", "--fd", str(listening.fileno())],
            env=os.environ | _SERVER_SETTINGS | {"PREFECT_SERVER_API_AUTH_STRING": login},
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            pass_fds=[listening.fileno()],
            start_new_session=True,  # Ctrl-C in the terminal is for the line, which still has to report to the server
        )
        port = listening.getsockname()[1]
    try:
        yield PrefectApi(f"http://127.0.0.1:{port}/api", login, server=(process, log))
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
