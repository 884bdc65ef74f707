"""What a run opens to the network (nothing), and what its sockets on loopback answer to those without its token."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
import torch
import torch.distributed as dist

from modelmill.services.compute import Compute, ComputeConfig
from modelmill.tasks.journal import Journal
from modelmill.tasks.lm.parallel.layout import Layout
from modelmill.tasks.lm.parallel.ranks import open_ranks
from modelmill.tasks.loopback import is_loopback
from tests.flows.forked import start_mill
from tests.flows.tiny import Tiny
from tests.listening import Socket, exposed, listening

ROOT = Path(__file__).resolve().parents[2]
LAYOUT = Layout(data_shard=2)


@pytest.fixture(scope="module")
def others() -> set[Socket]:
    """What this process's earlier children listen on: the stack of another module's tests, for one."""
    return listening(psutil.Process(), "tcp")


@pytest.fixture(scope="module")
def compute(tmp_path_factory: pytest.TempPathFactory, others: set[Socket]) -> Iterator[Compute]:
    compute = Compute(ComputeConfig(workers=2, device="cpu", layout=LAYOUT), tmp_path_factory.mktemp("home"))
    compute.start()
    yield compute
    compute.stop()


def sockets_of_run(driver: int, layout: Layout) -> list[Socket]:
    """What the driver and its descendants, among them both members of the group, listen on."""
    with open_ranks(layout) as ranks:
        dist.all_reduce(torch.ones(1))
        found = sorted(listening(psutil.Process(driver))) if ranks.is_first else []
        dist.barrier()
    return found


def test_a_local_ray_and_a_group_of_processes_listen_on_loopback_only(compute: Compute, tmp_path: Path) -> None:
    pool = compute.pool(tmp_path / "work", Journal(tmp_path / "work" / "journal.jsonl"))
    found = set(pool.run(sockets_of_run, {"driver": os.getpid()}, "run", LAYOUT))
    names = {socket.process for socket in found}
    assert {"gcs_server", "raylet", "ray::DashboardAgent", "ray::RuntimeEnvAgent"} <= names
    assert any("Member" in name for name in names), names
    assert exposed(found) == set()


def test_a_local_ray_runs_no_command_of_those_without_its_token(compute: Compute, tmp_path: Path) -> None:
    job = {"entrypoint": f"touch {tmp_path / 'ran'}"}
    answers = {}
    for each in listening(psutil.Process(), "tcp"):
        for path in ("/api/job_agent/jobs/", "/get_or_create_runtime_env"):
            # What speaks gRPC gives no answer.
            with contextlib.suppress(httpx.HTTPError):
                url = f"http://127.0.0.1:{each.port}{path}"
                answers[each.process, path] = httpx.post(url, json=job, timeout=5, trust_env=False).status_code
    assert answers["ray::RuntimeEnvAgent", "/get_or_create_runtime_env"] == 401
    assert not [status for status in answers.values() if status < 400], answers
    assert not (tmp_path / "ran").exists()


def test_no_part_of_a_local_ray_tells_its_metrics(compute: Compute, others: set[Socket]) -> None:
    answers = {}
    for port in {each.port for each in listening(psutil.Process(), "tcp") - others}:
        with contextlib.suppress(httpx.HTTPError):  # what speaks gRPC gives no answer
            answers[port] = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=5, trust_env=False).status_code
    assert set(answers.values()) == {401}


def test_a_driver_without_the_token_is_refused_in_one_sentence(compute: Compute, tmp_path: Path) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    code = (
        "import sys\nfrom pathlib import Path\nfrom modelmill.services.compute import Compute, ComputeConfig\n"
        "from modelmill.tasks.errors import ResourceError\n"
        "try:\n    Compute(ComputeConfig(), Path(sys.argv[1])).start()\n"
        "except ResourceError as error:\n    print(error)\n"
    )
    wrong = tmp_path / "token"
    wrong.write_text("0" * 64)
    environment = os.environ | {"RAY_ADDRESS": address, "RAY_AUTH_TOKEN_PATH": str(wrong)}
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert f"the Ray cluster at {address} refuses this token" in done.stdout, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 1


def test_the_token_is_in_the_home_and_readable_by_its_user_alone(compute: Compute) -> None:
    token = compute.home / "secrets" / "ray"
    assert token.stat().st_mode & 0o777 == 0o600
    assert os.environ["RAY_AUTH_TOKEN_PATH"] == str(token)


def test_mill_run_listens_on_loopback_only(prefect_database: None, tmp_path: Path) -> None:
    tiny = Tiny(tmp_path / "two-stages")
    tiny.folder.mkdir()
    tiny.write_recipe()
    tiny.write_pages()
    laptop = tmp_path / "two.yaml"
    laptop.write_text("{backend: ray, workers: 2, device: cpu}")
    home, log = tmp_path / "home", tmp_path / "output.log"
    environment = {"MILL_HOME": str(home), "PREFECT_HOME": os.environ["PREFECT_HOME"]}
    run = start_mill(ROOT, ["run", str(tiny.recipe), "--compute", str(laptop)], environment, log, log)
    process, found = psutil.Process(run.pid), set[Socket]()
    while run.is_alive():
        found |= listening(process, "tcp")
        time.sleep(0.2)
    assert run.exitcode == 0, log.read_text()
    assert {"gcs_server", "raylet"} <= {socket.process for socket in found}
    assert exposed(found) == set()


def test_what_counts_as_loopback() -> None:
    assert exposed({Socket("a", address, 1) for address in ("127.0.0.1", "::1", "::ffff:127.0.0.2")}) == set()
    assert (
        len(exposed({Socket("a", address, 1) for address in ("0.0.0.0", "::", "192.0.2.1", "::ffff:192.0.2.1")})) == 4
    )
    assert is_loopback("localhost") and is_loopback("127.9.9.9") and is_loopback("::1")
    assert not is_loopback("0.0.0.0") and not is_loopback("head.example.org")
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert server.getsockname() in {(each.address, each.port) for each in listening(psutil.Process())}
