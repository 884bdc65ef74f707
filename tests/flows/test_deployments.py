"""The deployments on a real stack: started through Prefect's API, failed, mended, rerun, scheduled."""

import datetime
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from modelmill.flows.recipe import CONFIGS
from modelmill.services.processes import with_token
from modelmill.services.ray_session import local_environment
from modelmill.services.scratch import stack_folder
from modelmill.services.stack import stack_environment, start_stack
from modelmill.tasks.catalog import STAGES
from modelmill.tasks.files import read_json
from tests.flows.tiny import Stack
from tests.homes import open_to_others
from tests.listening import Socket, exposed, listening

FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@pytest.fixture
def api(stack: Stack) -> Iterator[httpx.Client]:
    with stack.client() as client:
        yield client


def start(api: httpx.Client, deployment: str, request: dict[str, Any]) -> str:
    """Start a run of a deployment as Prefect's page does; its id."""
    found = api.get(f"/deployments/name/{deployment}").raise_for_status().json()
    answer = api.post(f"/deployments/{found['id']}/create_flow_run", json={"parameters": {"request": request}})
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


def ended(api: httpx.Client, run: str, seconds: float = 90) -> dict[str, Any]:
    """The run when it is over."""
    deadline = time.monotonic() + seconds
    while (found := api.get(f"/flow_runs/{run}").raise_for_status().json())["state_type"] not in FINAL:
        assert time.monotonic() < deadline, f"still {found['state_type']} after {seconds} s"
        time.sleep(0.2)
    return found


def subflows(api: httpx.Client, run: str) -> dict[str, str]:
    """Stage → state of the newest subflow run of a line."""
    runs = api.post("/flow_runs/filter", json={"flow_runs": {"parent_flow_run_id": {"any_": [run]}}}).json()
    return {found["name"]: found["state_type"] for found in sorted(runs, key=lambda item: item["created"])}


def artifacts(api: httpx.Client, run: str) -> dict[str, Any]:
    """Key → newest data of the artifacts of a run and its subflows."""
    ids = [run] + [
        found["id"]
        for found in api.post("/flow_runs/filter", json={"flow_runs": {"parent_flow_run_id": {"any_": [run]}}}).json()
    ]
    found = api.post("/artifacts/filter", json={"artifacts": {"flow_run_id": {"any_": ids}}}).json()
    return {item["key"]: item["data"] for item in found}


def test_there_is_a_deployment_for_the_line_each_stage_and_the_night(api: httpx.Client) -> None:
    found = api.post("/deployments/filter", json={}).json()
    assert {item["name"] for item in found} == {"line", "nightly", *STAGES}
    assert {item["paused"] for item in found} == {False}


def test_the_schedule_really_creates_runs(api: httpx.Client) -> None:
    """With SQLAlchemy 2.1 Prefect's scheduler creates none, and says nothing."""
    nightly = api.get("/deployments/name/line/nightly").json()
    deadline = time.monotonic() + 60
    while True:
        runs = api.post(
            "/flow_runs/filter",
            json={"deployments": {"id": {"any_": [nightly["id"]]}}, "sort": "EXPECTED_START_TIME_ASC"},
        ).json()
        if runs:
            break
        assert time.monotonic() < deadline, "no run was scheduled within a minute"
        time.sleep(1)
    first = datetime.datetime.fromisoformat(runs[0]["expected_start_time"])
    assert (first.hour, first.minute) == (2, 30)
    assert runs[0]["parameters"]["request"] == {
        "recipe": "demo", "overrides": [], "when_busy": "skip", "to_stage": "curate", "force": ["ingest"]
    }  # fmt: skip


def test_a_failed_stage_is_mended_rerun_by_its_deployment_and_the_line_finishes(
    api: httpx.Client, stack: Stack, tmp_path: Path
) -> None:
    """The recipe `tiny` on the Ray of the stack, up to its tokens."""
    recipe = tmp_path / "mended.yaml"
    text = (CONFIGS / "tiny.yaml").read_text().replace("name: tiny", "name: mended")
    recipe.write_text(text.replace("min_words: 30", "min_words: 100000"))  # leaves no document
    line = start(api, "line/line", {"recipe": str(recipe), "to_stage": "tokenize"})
    failed = ended(api, line)
    assert failed["state_type"] == "FAILED"
    assert "dropped all 59 pages" in failed["state"]["message"]
    assert subflows(api, line) == {"ingest": "COMPLETED", "clean": "FAILED"}

    recipe.write_text(text)
    stage = start(api, "clean/clean", {"recipe": str(recipe), "settings": {"gopher": {"min_words": 30}}})
    assert ended(api, stage)["state_type"] == "COMPLETED"
    summary = artifacts(api, stage)["clean-summary"]
    assert "| in | 59 |" in summary and stack.parts["mlflow"] in summary

    # Prefect's Retry button does this to a failed run.
    retry = {"state": {"type": "SCHEDULED", "name": "AwaitingRetry"}, "force": True}
    api.post(f"/flow_runs/{line}/set_state", json=retry).raise_for_status()
    deadline = time.monotonic() + 90
    while (again := ended(api, line))["state_type"] != "COMPLETED":
        assert time.monotonic() < deadline, again["state"]["message"]
    assert again["run_count"] == 2
    assert subflows(api, line) == dict.fromkeys(["ingest", "clean", "dedup", "curate", "tokenize"], "COMPLETED")
    record = read_json(stack.home / "lines" / "mended.json")
    statuses = [stage["status"] for stage in record["stages"]]
    assert statuses[:6] == ["reuse", "reuse", "build", "build", "build", "waiting"]


def test_unknown_parameters_are_refused_before_anything_runs(api: httpx.Client) -> None:
    found = api.get("/deployments/name/line/line").json()
    wrong = {"parameters": {"request": {"recipe": "demo", "recipee": "demo"}}}
    answer = api.post(f"/deployments/{found['id']}/create_flow_run", json=wrong)
    assert answer.status_code in (409, 422)
    assert "recipee" in answer.text


def test_a_second_up_changes_nothing_and_other_commands_find_the_stack(stack: Stack) -> None:
    before = with_token(read_json(stack.home / "stack" / "stack.json")["token"])
    again = start_stack(stack.home, prefect_port=0, mlflow_port=0, ray_port=0)
    assert again == stack.parts | {"stack": "already running"}
    after = with_token(read_json(stack.home / "stack" / "stack.json")["token"])
    assert {process.pid for process in before} <= {process.pid for process in after}
    assert stack_environment(stack.home) == {
        "PREFECT_API_URL": stack.api,
        "MLFLOW_TRACKING_URI": stack.parts["mlflow"],
        "RAY_ADDRESS": stack.parts["ray"],
    } | local_environment(stack.home)


def test_no_server_of_the_stack_leaves_a_file_that_others_may_open(stack: Stack) -> None:
    assert open_to_others(stack.home) == []


def test_the_stack_listens_on_loopback_only_in_a_folder_of_its_user_alone(stack: Stack) -> None:
    parts = with_token(read_json(stack.home / "stack" / "stack.json")["token"])
    sockets: set[Socket] = set().union(*(listening(part, "tcp") for part in parts))
    assert {"gcs_server", "raylet"} <= {socket.process for socket in sockets}
    assert {urlsplit(stack.parts[part]).port for part in ("prefect", "mlflow")} <= {socket.port for socket in sockets}
    assert exposed(sockets) == set()
    assert stack_folder(stack.home).parent.stat().st_mode & 0o777 == 0o700
    assert {part.environ()["TMPDIR"] for part in parts} == {str(stack_folder(stack.home) / "tmp")}


def test_a_run_joins_the_ray_of_the_stack_with_its_token(stack: Stack) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom modelmill.services.compute import Compute, ComputeConfig\n"
        "compute = Compute(ComputeConfig(), Path(sys.argv[1]))\ncompute.start()\n"
        "import ray\nprint(ray.get(ray.remote(lambda: 'joined').remote()))\ncompute.stop()\n"
    )
    # A token that the user has for another cluster is not for this one.
    environment = os.environ | stack_environment(stack.home) | {"RAY_AUTH_TOKEN": "0" * 64}
    command = [sys.executable, "-c", code, str(stack.home)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "joined\n", done.stderr
