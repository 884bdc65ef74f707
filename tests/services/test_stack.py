"""Background processes: started, found again, and ended with all of their children; ports that are taken."""

import os
import socket
import sys
import time
from pathlib import Path

import psutil
import pytest

from modelmill.services.processes import Service, end_all, require_port, start_service, wait_until, with_token
from modelmill.services.stack import stack_environment, start_stack, stop_stack
from modelmill.tasks.errors import ResourceError
from modelmill.tasks.files import write_json

# A process with a child in a session of its own, as Ray's daemons are.
PARENT = (
    "import subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
    "print('ready', flush=True)\n"
    "time.sleep(600)"
)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "stack" / "part.log"


def start(log: Path, code: str, token: str) -> Service:
    return start_service("part", [sys.executable, "-c", code], "http://127.0.0.1", log, {}, token)


def remember(home: Path, service: Service, token: str) -> None:
    """What `start_stack` leaves behind, for a stack of one part."""
    environment = {"PREFECT_API_URL": "http://127.0.0.1:1/api"}
    write_json(
        home / "stack" / "stack.json",
        {"token": token, "services": [service.as_dict()], "environment": environment},
    )


def test_children_are_ended_even_when_their_parent_was_killed(tmp_path: Path, log: Path) -> None:
    token = f"test-{os.getpid()}-{time.time_ns()}"
    service = start(log, PARENT, token)
    wait_until(service, lambda: "ready" in log.read_text(), 30)
    remember(tmp_path, service, token)
    assert stack_environment(tmp_path) == {"PREFECT_API_URL": "http://127.0.0.1:1/api"}
    parent = psutil.Process(service.pid)
    parent.kill()
    psutil.wait_procs([parent], timeout=10)
    assert len(with_token(token)) == 1, "the child outlives its parent"
    assert stack_environment(tmp_path) == {}
    assert stop_stack(tmp_path) == ["part"]
    assert with_token(token) == []
    assert stop_stack(tmp_path) == []


def test_a_process_that_took_over_the_number_is_not_the_service(tmp_path: Path) -> None:
    mine = psutil.Process()
    service = Service("part", mine.pid, mine.create_time() - 60, "http://127.0.0.1", str(tmp_path / "log"))
    remember(tmp_path, service, "no-process-carries-this")
    assert not service.is_running()
    assert stack_environment(tmp_path) == {}
    assert stop_stack(tmp_path) == ["part"]
    assert mine.is_running()


def test_a_part_that_ends_while_it_starts_shows_its_log(log: Path) -> None:
    service = start(log, "print('no such option: --colour'); raise SystemExit(2)", "token-of-nothing")
    with pytest.raises(ResourceError, match=r"(?s)part ended while it started.*no such option: --colour"):
        wait_until(service, lambda: False, 30)


def test_a_part_that_never_answers_is_given_up(log: Path) -> None:
    token = f"test-{os.getpid()}-{time.time_ns()}"
    service = start(log, "import time; time.sleep(600)", token)
    with pytest.raises(ResourceError, match="part did not answer within 1 s"):
        wait_until(service, lambda: False, 1)
    assert end_all(token) == 1


def test_a_port_in_use_is_named_with_its_option_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ResourceError, match=rf"port {port} .*Prefect's server.*--prefect-port"):
            start_stack(tmp_path, prefect_port=port, mlflow_port=0, ray_port=0)
        with pytest.raises(ResourceError, match=rf"port {port} .*MLflow's server.*--mlflow-port"):
            start_stack(tmp_path, prefect_port=0, mlflow_port=port, ray_port=0)
    assert not (tmp_path / "stack" / "stack.json").exists()
    require_port(port, "anything", "--port")


def test_what_a_killed_start_left_is_no_stack(tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers that run, without the process of the deployments, which is started last."""
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    token = f"test-{os.getpid()}-{time.time_ns()}"
    service = start(log, PARENT, token)
    remember(tmp_path, service, token)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ResourceError, match="--prefect-port"):  # it starts anew, here as far as a port in use
            start_stack(tmp_path, prefect_port=other.getsockname()[1], mlflow_port=0, ray_port=0)
    assert not service.is_running() and with_token(token) == []


@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"[]", b'{"token": 1}', b'{"services": [{"pid": "x"}]}'])
def test_a_damaged_record_hides_no_process_from_down(tmp_path: Path, log: Path, content: bytes) -> None:
    token = f"test-{os.getpid()}-{time.time_ns()}"
    service = start_service("part", [sys.executable, "-c", PARENT], "", log, {"MILL_HOME": str(tmp_path)}, token)
    wait_until(service, lambda: "ready" in log.read_text(), 30)
    remember(tmp_path, service, token)
    (tmp_path / "stack" / "stack.json").write_bytes(content)
    assert stack_environment(tmp_path) == {}
    assert stop_stack(tmp_path) == ["the processes of a damaged stack.json"]
    assert with_token(token) == [] and not (tmp_path / "stack" / "stack.json").exists()
