"""MILL_HOME and ports → Prefect, MLflow, Ray and the deployments as background processes on loopback, and their end.

A server that the environment names already (PREFECT_API_URL, MLFLOW_TRACKING_URI, RAY_ADDRESS) is used, not started.
What runs is remembered in `stack/stack.json`, whence other commands take `stack_environment`.
"""

import os
import secrets
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from modelmill.services.databases import mlflow_artifacts, mlflow_database, mlflow_lock, prepare_mlflow
from modelmill.services.locks import locked
from modelmill.services.login import mlflow_login, prefect_headers, server_login
from modelmill.services.origin_guard import server_names
from modelmill.services.processes import (
    Service,
    end_all,
    end_service,
    free_port,
    require_port,
    stack_tokens,
    start_service,
    wait_until,
)
from modelmill.services.ray_session import local_environment
from modelmill.services.records import StackRecord, read_record
from modelmill.services.scratch import remove_stack_folder, stack_folder, stack_temporary_folder
from modelmill.tasks.files import write_json

START_SECONDS = 180.0
_LAST = "deployments"


@dataclass(frozen=True)
class _Part:
    """One process of the stack: how to start it, how to tell that it works, and what others need to find it."""

    name: str
    command: list[str]
    url: str
    is_healthy: Callable[[], bool]
    environment: dict[str, str]
    found_by: dict[str, str]


def start_stack(
    home: Path,
    *,
    prefect_port: int = 4200,
    mlflow_port: int = 5000,
    ray_port: int = 6379,
    allowed_hosts: Sequence[str] = (),
) -> dict[str, str]:
    """Start what does not run yet, wait until all of it answers, and return name → address (port 0: any free one).

    `allowed_hosts` are names besides those of loopback by which browsers reach Prefect's and MLflow's pages.

    Raises:
        InputError: one of `allowed_hosts` is no host name.
        ResourceError: a port is in use, or a part did not start; nothing that this call started is left running.
    """
    server_names(prefect_port, allowed_hosts)
    folder = home / "stack"
    with locked(folder / "lock"):
        known = _remembered(home)
        # A start that was killed leaves servers without the deployments, which come last.
        if any(service.name == _LAST for service in known) and all(service.is_running() for service in known):
            return _addresses(home, "already running")
        _end(home)
        token = secrets.token_hex(16)
        try:
            _start_all(home, token, prefect_port, mlflow_port, ray_port, allowed_hosts)
        except BaseException:
            end_all(token)
            _forget(home)
            raise
        return _addresses(home, "started")


def stop_stack(home: Path) -> list[str]:
    """End what `start_stack` started, also after a crash of it; returns the names of what was ended."""
    with locked(home / "stack" / "lock"):
        return _end(home)


def stack_environment(home: Path) -> dict[str, str]:
    """The environment variables by which other processes find the running stack of a home; empty when none runs."""
    if not all(service.is_running() for service in _remembered(home)):
        return {}
    record = _record(home)
    return dict(record["environment"]) if record else {}


def _start_all(
    home: Path, token: str, prefect_port: int, mlflow_port: int, ray_port: int, allowed_hosts: Sequence[str]
) -> None:
    """Start the servers side by side, then the deployments, which need them."""
    parts = []
    names = [argument for name in allowed_hosts for argument in ("--allow-host", name)]
    if "PREFECT_API_URL" not in os.environ:
        parts.append(_prefect(home, _checked_port(prefect_port, "Prefect's server", "--prefect-port"), names))
    if "MLFLOW_TRACKING_URI" not in os.environ:
        parts.append(_mlflow(home, _checked_port(mlflow_port, "MLflow's server", "--mlflow-port"), names))
    if "RAY_ADDRESS" not in os.environ:
        parts.append(_ray(home, _checked_port(ray_port, "the Ray head", "--ray-port")))
    environment = {name: value for part in parts for name, value in part.found_by.items()}
    services: list[Service] = []
    if any(part.name == "mlflow" for part in parts):
        prepare_mlflow(home)  # a server that is killed while it makes its database would leave half of one
    with locked(mlflow_lock(home)):
        for part in parts:
            services.append(_start(home, token, part, environment))
            _remember(home, token, services, environment)
        for part, service in zip(parts, services, strict=True):
            wait_until(service, part.is_healthy, START_SECONDS)
    deployments = _deployments(home, environment.get("PREFECT_API_URL"))
    services.append(_start(home, token, deployments, environment))
    _remember(home, token, services, environment)
    wait_until(services[-1], deployments.is_healthy, START_SECONDS)


def _start(home: Path, token: str, part: _Part, environment: dict[str, str]) -> Service:
    log = home / "stack" / f"{part.name}.log"
    variables = environment | {"MILL_HOME": str(home), "PREFECT_LOGGING_LEVEL": "INFO"} | part.environment
    variables["TMPDIR"] = str(stack_temporary_folder(home))
    return start_service(part.name, part.command, part.url, log, variables, token)


def _checked_port(port: int, what: str, option: str) -> int:
    if port == 0:
        return free_port()
    require_port(port, what, option)
    return port


def _prefect(home: Path, port: int, names: list[str]) -> _Part:
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "modelmill.flows.prefect_process", "--port", str(port), *names]
    environment = {
        "PREFECT_UI_API_URL": "/api",  # of the page's own origin, under whichever name it was opened
        "PREFECT__SERVER_FINAL": "1",
        "PREFECT_SERVER_API_AUTH_STRING": server_login(home),
    }
    found_by = {"PREFECT_API_URL": f"{url}/api"}
    return _Part("prefect", command, url, lambda: _answers(f"{url}/api/health"), environment, found_by)


def _mlflow(home: Path, port: int, names: list[str]) -> _Part:
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "modelmill.services.mlflow_process", "--port", str(port), *names]
    command += ["--backend-store-uri", mlflow_database(home), "--default-artifact-root", mlflow_artifacts(home)]
    # Its job runner (for GenAI evaluation) would add three idle processes.
    environment = mlflow_login(home) | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return _Part("mlflow", command, url, lambda: _answers(f"{url}/health"), environment, {"MLFLOW_TRACKING_URI": url})


def _ray(home: Path, port: int) -> _Part:
    folder = stack_folder(home)
    options = {
        "--node-ip-address": "127.0.0.1",
        "--port": port,
        # Its page would add a dozen processes and a gigabyte; progress is on Prefect's pages.
        "--include-dashboard": "false",
        "--include-log-monitor": "false",
        "--ray-client-server-port": free_port(),
        # Workers take any free port; by default those from 10002 to 19999, where the head could not be then.
        "--min-worker-port": 0,
        "--max-worker-port": 0,
        # A fixed port otherwise, at which two stacks on one machine would meet.
        "--dashboard-agent-listen-port": free_port(),
        "--object-store-memory": 200_000_000,
        "--temp-dir": folder,
    }
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--no-monitor"]
    command += [str(item) for pair in options.items() for item in pair]
    found_by = local_environment(home) | {"RAY_ADDRESS": f"127.0.0.1:{port}"}
    return _Part("ray", command, found_by["RAY_ADDRESS"], lambda: _ray_is_up(folder, port), {}, found_by)


def _ray_is_up(folder: Path, port: int) -> bool:
    """The head accepts connections, and its node has opened the socket that workers and drivers use."""
    with socket.socket() as head, socket.socket(socket.AF_UNIX) as node:
        try:
            head.connect(("127.0.0.1", port))
            node.connect(str(folder / "session_latest" / "sockets" / "raylet"))
        except OSError:
            return False
    return True


def _deployments(home: Path, own_api_url: str | None) -> _Part:
    """The process that serves the deployments, to the stack's own Prefect or to that of the environment."""
    command = [sys.executable, "-m", "modelmill.flows.deployments"]
    environment = {"PREFECT_API_AUTH_STRING": server_login(home)} if own_api_url else {}
    api_url, headers = own_api_url or os.environ["PREFECT_API_URL"], prefect_headers(environment or os.environ)
    before = _last_asked(api_url, headers)
    url = api_url.removesuffix("/api")
    return _Part(
        "deployments", command, url, lambda: _last_asked(api_url, headers) not in (None, before), environment, {}
    )


def _last_asked(api_url: str, headers: dict[str, str]) -> str | None:
    """When a process last asked for work of the line's deployment; None unless Prefect marks it ready.

    The mark outlives the process that serves the deployment, so that a start has to see this time move.
    """
    try:
        found = httpx.get(f"{api_url}/deployments/name/line/line", headers=headers, timeout=10)
    except httpx.HTTPError:
        return None
    if found.status_code != 200 or found.json()["status"] != "READY":
        return None
    return found.json()["last_polled"]


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=10).status_code == 200
    except httpx.HTTPError:
        return False


def _remember(home: Path, token: str, services: list[Service], environment: dict[str, str]) -> None:
    listed = [service.as_dict() for service in services]
    write_json(home / "stack" / "stack.json", {"token": token, "services": listed, "environment": environment})


def _record(home: Path) -> dict[str, Any] | None:
    return read_record(home / "stack" / "stack.json", StackRecord, "`mill down` ends what it was about")


def _remembered(home: Path) -> list[Service]:
    return [Service(**service) for service in (_record(home) or {"services": []})["services"]]


def _end(home: Path) -> list[str]:
    record, services = _record(home), _remembered(home)
    # The deployments go first: they pause their schedules, for which they need Prefect.
    for service in reversed(services):
        end_service(service, seconds=30)
    if record is not None:
        end_all(record["token"])
        _forget(home)
    elif (home / "stack" / "stack.json").exists():
        for token in stack_tokens(home):
            end_all(token)
        _forget(home)
        return ["the processes of a damaged stack.json"]
    return [service.name for service in services]


def _forget(home: Path) -> None:
    (home / "stack" / "stack.json").unlink(missing_ok=True)
    remove_stack_folder(home)


def _addresses(home: Path, state: str) -> dict[str, str]:
    record = _record(home)
    assert record is not None, "the caller has just written it, or found its processes running"
    addresses = {service["name"]: service["url"] for service in record["services"]}
    login = {"login": server_login(home)} if {"prefect", "mlflow"} & addresses.keys() else {}
    return {"stack": state} | addresses | login | {"logs": str(home / "stack")}


if __name__ == "__main__":
    # The health check of a container that serves the deployments.
    sys.exit(0 if _last_asked(os.environ["PREFECT_API_URL"], prefect_headers(os.environ)) else 1)
