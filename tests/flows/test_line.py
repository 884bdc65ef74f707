"""The line as a Prefect flow, run in this process against a real Prefect server of its own."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import psutil
import pytest
from mlflow import MlflowClient
from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import ArtifactFilter, FlowRunFilter
from prefect.client.schemas.objects import FlowRun, TaskRun
from prefect.context import refresh_global_settings_context
from prefect.states import Failed, Running

from modelmill.flows.environment import mill_home
from modelmill.flows.line import line
from modelmill.flows.pages import line_tags
from modelmill.flows.requests import LineRequest
from modelmill.flows.stages import is_unforeseen, stage_flow
from modelmill.flows.start import LineOutcome, run_line_flow
from modelmill.services.prefect_server import PrefectApi, prefect_api, wait_until_healthy
from modelmill.services.processes import is_alive
from modelmill.tasks.errors import InputError, RecipeError, ResourceError
from modelmill.tasks.files import read_json
from tests.flows.tiny import Tiny
from tests.homes import open_to_others


@pytest.fixture(scope="module")
def server(prefect_database: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One Prefect server and one home for all tests here: each takes seconds to make."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MILL_HOME", str(tmp_path_factory.mktemp("home")))
        for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
            patch.delenv(name, raising=False)
        with prefect_api(mill_home()) as api:
            refresh_global_settings_context()
            wait_until_healthy(api)
            yield
    refresh_global_settings_context()


@pytest.fixture
def client(server: None) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as opened:
        yield opened


def run(tiny: Tiny, **request: object) -> LineOutcome:
    return run_line_flow(LineRequest.model_validate({"recipe": str(tiny.recipe)} | request))


def flow_runs(client: SyncPrefectClient, tiny: Tiny) -> list[FlowRun]:
    """All flow runs of a recipe, oldest first."""
    tagged = FlowRunFilter.model_validate({"tags": {"all_": line_tags(mill_home(), tiny.folder.name)}})
    return sorted(client.read_flow_runs(flow_run_filter=tagged), key=lambda found: str(found.start_time))


def artifacts(client: SyncPrefectClient, runs: list[UUID]) -> dict[str, object]:
    found = client.read_artifacts(artifact_filter=ArtifactFilter.model_validate({"flow_run_id": {"any_": runs}}))
    return {artifact.key: artifact.data for artifact in found if artifact.key}


def test_the_line_runs_as_subflows_and_a_second_run_reuses(client: SyncPrefectClient, tiny: Tiny) -> None:
    first = run(tiny)
    assert first.status == "completed"
    assert [stage["status"] for stage in first.stages] == ["build", "build"]
    assert 0 < first.seconds_outside < first.seconds
    parent, *subflows = flow_runs(client, tiny)
    assert [found.name for found in subflows] == ["ingest", "clean"]
    assert {found.state_name for found in [parent, *subflows]} == {"Completed"}
    pages = artifacts(client, [parent.id, *(found.id for found in subflows)])
    assert pages["line-stages"] == 100
    assert "| ingest | built | 20 | 20 pages |" in str(pages["line-summary"])
    assert "never built in this home" in str(pages["clean-summary"])
    assert pages["ingest-extract"] == 100

    second = run(tiny)
    assert [stage["status"] for stage in second.stages] == ["reuse", "reuse"]
    store = MlflowClient(f"sqlite:///{mill_home() / 'mlflow.db'}")
    experiment = store.get_run(second.links["mlflow_run"]).info.experiment_id
    children = store.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{second.links['mlflow_run']}'")
    assert {child.data.tags["reused"] for child in children} == {"true"}
    assert open_to_others(mill_home()) == []
    makers = {child.data.tags["modelmill.made_by"] for child in children}
    assert {store.get_run(maker).data.tags["mlflow.parentRunId"] for maker in makers} == {first.links["mlflow_run"]}


def test_a_failing_stage_raises_its_own_error_and_is_recorded(client: SyncPrefectClient, tiny: Tiny) -> None:
    tiny.write_recipe(min_words=100_000)
    with pytest.raises(InputError, match="dropped all 20 pages"):
        run(tiny)
    assert {found.name: found.state_name for found in flow_runs(client, tiny)[1:]} == {
        "ingest": "Completed", "clean": "Failed"
    }  # fmt: skip
    record = read_json(mill_home() / "lines" / f"{tiny.folder.name}.json")
    assert [stage["status"] for stage in record["stages"]] == ["build", "failed"]
    tiny.write_recipe()
    assert [stage["status"] for stage in run(tiny).stages] == ["reuse", "build"]


def test_a_gpu_that_is_not_there_is_missed_before_the_first_stage(client: SyncPrefectClient) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ResourceError, match="no usable GPU"):
        run_line_flow(LineRequest(recipe="tiny", compute="gpu"))
    assert not (mill_home() / "lines" / "tiny.json").exists()


def test_part_of_the_line_runs_and_what_it_needs_must_be_there(server: None, tiny: Tiny) -> None:
    with pytest.raises(RecipeError, match="cannot start at clean"):
        run(tiny, from_stage="clean")
    assert [stage["id"] for stage in run(tiny, to_stage="ingest").stages] == ["ingest"]
    assert [stage["status"] for stage in run(tiny, from_stage="clean").stages] == ["reuse", "build"]
    assert [stage["status"] for stage in run(tiny, force=["clean"]).stages] == ["reuse", "build"]
    with pytest.raises(RecipeError, match="no stage 'cleen'; did you mean 'clean'"):
        run(tiny, to_stage="cleen")


def test_a_stage_alone_is_a_line_of_its_own(server: None, tiny: Tiny) -> None:
    request = {"recipe": str(tiny.recipe)}
    with pytest.raises(RecipeError, match="cannot start at clean"):
        stage_flow("clean")(request)
    ingest = stage_flow("ingest")(request)
    clean = stage_flow("clean")(request)
    assert ingest != clean
    assert stage_flow("clean")(request | {"force": True}) == clean


def test_a_busy_recipe_is_skipped_or_waited_for(server: None, tiny: Tiny) -> None:
    path = mill_home() / "locks" / f"line-{tiny.folder.name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert run(tiny, when_busy="skip").status == "skipped"
        state = line(LineRequest(recipe=str(tiny.recipe), when_busy="skip"), return_state=True)
        assert (state.name, state.type.value) == ("Skipped", "COMPLETED")
        assert "under way" in (state.message or "")
        threading.Timer(1.0, fcntl.flock, (other, fcntl.LOCK_UN)).start()
        assert run(tiny, when_busy="wait").status == "completed"


def test_runs_whose_process_was_killed_are_closed(client: SyncPrefectClient, tiny: Tiny) -> None:
    lost = client.create_flow_run(
        line, parameters={"request": {}}, state=Running(), tags=line_tags(mill_home(), tiny.folder.name)
    )
    run(tiny, to_stage="ingest")
    assert client.read_flow_run(lost.id).state_name == "Crashed"


def test_only_unforeseen_errors_are_met_again() -> None:
    assert is_unforeseen(None, TaskRun.model_construct(), Failed(data=ValueError("boom")))
    assert not is_unforeseen(None, TaskRun.model_construct(), Failed(data=InputError("no such file")))


def test_a_server_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelmill.services.prefect_server.ANSWER_SECONDS", 1.0)
    with pytest.raises(ResourceError, match=r"http://127\.0\.0\.1:9/api did not answer"):
        wait_until_healthy(PrefectApi("http://127.0.0.1:9/api"))


def test_the_server_of_a_killed_process_ends_with_it(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from modelmill.services.prefect_server import prefect_api\n"
        "with prefect_api(Path(sys.argv[1])): print('started', flush=True); time.sleep(600)"
    )
    plain = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=plain, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        (server,) = psutil.Process(process.pid).children()
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 30
    while is_alive(server):
        assert time.monotonic() < deadline, "the server outlives the process that started it"
        time.sleep(0.1)
