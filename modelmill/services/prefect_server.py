"""MILL_HOME → a Prefect API for one command: the one of PREFECT_API_URL, of `mill up`, or a server of this process.

Prefect's own temporary server is started by the first flow and keeps it waiting; this one starts while the command
still imports and plans, ends with the process that started it (also when that is killed), and uses the same database as
`mill up`, so that its runs are seen there later.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from modelmill.services.stack import stack_environment
from modelmill.tasks.errors import ResourceError

START_SECONDS = 180.0

_SERVER_SETTINGS = {
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
    "PREFECT_UI_ENABLED": "0",
    "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
}


@dataclass(frozen=True)
class PrefectApi:
    """Where Prefect's API is, and whether people can look at its pages after the command."""

    url: str
    has_page: bool


@contextlib.contextmanager
def prefect_api(home: Path) -> Iterator[PrefectApi]:
    """Yield a Prefect API, and set PREFECT_API_URL to it meanwhile.

    Entering costs nothing, so a command enters it before its own heavy imports; `wait_until_healthy` does the waiting.
    """
    known = os.environ.get("PREFECT_API_URL") or stack_environment(home).get("PREFECT_API_URL")
    with contextlib.nullcontext(PrefectApi(known, has_page=True)) if known else _own_server(home) as api:
        before = os.environ.get("PREFECT_API_URL")
        os.environ["PREFECT_API_URL"] = api.url
        try:
            yield api
        finally:
            os.environ.pop("PREFECT_API_URL")
            if before is not None:
                os.environ["PREFECT_API_URL"] = before


def wait_until_healthy(api_url: str) -> None:
    """Return when the Prefect API answers.

    Raises:
        ResourceError: it did not within three minutes.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{api_url}/health", timeout=deadline - time.monotonic()).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.1)
    raise ResourceError(
        f"the Prefect API at {api_url} did not answer within {START_SECONDS:.0f} s. If PREFECT_API_URL names a server, "
        "see whether that runs; otherwise see prefect/server.log in MILL_HOME."
    )


@contextlib.contextmanager
def _own_server(home: Path) -> Iterator[PrefectApi]:
    log = home / "prefect" / "server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket() as listening, log.open("w") as output:
        # Listening here rather than in the server: no other process can take the port in between.
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)
        process = subprocess.Popen(
            [sys.executable, "-m", "modelmill.services.prefect_server", str(listening.fileno())],
            env=os.environ | _SERVER_SETTINGS,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            pass_fds=[listening.fileno()],
            start_new_session=True,  # Ctrl-C in the terminal is for the line, which still has to report to the server
        )
        port = listening.getsockname()[1]
    try:
        yield PrefectApi(f"http://127.0.0.1:{port}/api", has_page=False)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _end_with_parent() -> None:
    """The pipe from the parent ends when the parent does, however it ends."""
    while os.read(0, 1):  # not sys.stdin: its lock, held here, would abort the interpreter's shutdown
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)
    os._exit(0)


def _serve(listening: int) -> None:
    import uvicorn

    threading.Thread(target=_end_with_parent, daemon=True).start()
    uvicorn.run("prefect.server.api.server:create_app", factory=True, fd=listening, log_level="error")


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
