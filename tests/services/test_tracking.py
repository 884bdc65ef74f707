"""MLflow's records of a line, in a real SQLite database."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from modelmill.services.aliases import aliased_releases
from modelmill.services.registry import ALIAS
from modelmill.services.tracking import PARENT, LineTracking, log_report, metric_name, recipe_of
from modelmill.tasks.errors import InputError, ResourceError
from modelmill.tasks.journal import Journal

RECIPE = {
    "name": "small", "description": "two stages", "compute": "process", "line": ["ingest", "clean"],
    "ingest": {"sources": [{"kind": "text", "name": "notes"}]}, "clean": {"rate": 1e-5, "languages": ["no"]},
}  # fmt: skip


@dataclass
class Started:
    """The runner's `StageStarted`, as far as the recorder reads it."""

    id: str
    workspace: Path
    status: str = "build"
    key: str = "k" * 64
    why: tuple[str, ...] = ("never built in this home",)
    recipe_part: dict[str, Any] = field(default_factory=lambda: {"rules": {"words": 50}, "languages": ["en"]})
    inputs: list[tuple[str, str]] = field(default_factory=lambda: [("pages", "d" * 64)])

    @property
    def stage(self) -> str:
        return self.id


def manifest(stage: str, links: dict[str, str], type: str = "documents") -> dict[str, Any]:
    return {
        "type": type, "stage": stage, "id": stage, "key": "k" * 64, "digest": "a" * 64, "files": [],
        "counts": {"in": 10, "out": 7, "unit": "documents", "dropped": {"short": 3}}, "metrics": {"score": 0.5},
        "summary": "Kept *most*.", "waivers": [], "seconds": 2.5, "peak_memory_bytes": 1_000_000,
        "inputs": [{"type": "pages", "stage": "ingest", "digest": "d" * 64}], "created": time.time(),
        "recipe_part": {"name": "small-model"}, "links": dict(links),
    }  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One database for all tests here: creating it takes seconds. Each test has its own recipe name."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def client(home: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return MlflowClient(f"sqlite:///{home / 'mlflow.db'}")


def open_line(home: Path, name: str, attempt: str = "one", links: dict[str, str] | None = None) -> LineTracking:
    return LineTracking(home, name, RECIPE | {"name": name}, {} if links is None else links, attempt, "mill run")


def children(client: MlflowClient, line: LineTracking) -> list[Run]:
    experiment = client.get_run(line.links["mlflow_run"]).info.experiment_id
    found = client.search_runs([experiment], f"tags.`{PARENT}` = '{line.links['mlflow_run']}'")
    return sorted(found, key=lambda run: run.info.start_time)


def build(line: LineTracking, stage: str, folder: Path) -> dict[str, Any]:
    """A stage that runs: the events that the runner sends, and an artifact with a report."""
    line.stage_started(Started(stage, folder))
    for step in range(3):
        line.stage_event(stage, {"kind": "metrics", "step": step, "values": {"loss": 3.0 - step}, "time": time.time()})
    done = manifest(stage, line.links)
    report = line._home / "artifacts" / done["digest"] / "report"
    report.mkdir(parents=True, exist_ok=True)
    (report / "curve.svg").write_text("<svg/>")
    line.stage_finished(stage, done, folder, reused=False)
    return done


def test_a_built_stage_is_a_child_with_params_curves_inputs_and_files(
    home: Path, client: MlflowClient, tmp_path: Path
) -> None:
    line = open_line(home, "built")
    build(line, "clean", tmp_path / "artifact")
    line.finish(None)
    (run,) = children(client, line)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"rules.words": "50", "languages": '["en"]'}
    assert [metric.value for metric in client.get_metric_history(run.info.run_id, "loss")] == [3.0, 2.0, 1.0]
    assert run.data.metrics | {"loss": 0} == {
        "loss": 0, "rows/in": 10, "rows/out": 7, "dropped/short": 3, "seconds": 2.5, "peak_memory_bytes": 1e6,
        "final/score": 0.5,
    }  # fmt: skip
    assert run.inputs is not None
    (pages,) = run.inputs.dataset_inputs
    assert (pages.dataset.name, pages.dataset.digest) == ("pages", "d" * 36)
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"manifest.json", "report", "summary.md"}
    assert "dropped: short 3" in run.data.tags["mlflow.note.content"]
    assert client.get_run(line.links["mlflow_run"]).info.status == "FINISHED"


def test_a_reused_stage_is_marked_and_leads_to_the_run_that_made_it(
    home: Path, client: MlflowClient, tmp_path: Path
) -> None:
    first = open_line(home, "reused")
    made = build(first, "clean", tmp_path / "artifact")
    first.finish(None)
    maker = children(client, first)[0].info.run_id
    second = open_line(home, "reused", "two")
    second.stage_finished("clean", made, tmp_path / "artifact", reused=True)
    (run,) = children(client, second)
    assert run.data.tags["reused"] == "true"
    assert run.data.tags["modelmill.made_by"] == maker
    assert f"runs/{maker}" in run.data.tags["mlflow.note.content"]
    assert "mlflow_stage_run" not in second.links


def test_a_failed_stage_says_why(home: Path, client: MlflowClient, tmp_path: Path) -> None:
    line = open_line(home, "failed")
    line.stage_started(Started("clean", tmp_path))
    error = InputError("no documents are left")
    line.stage_failed("clean", error)
    line.finish(error)
    (run,) = children(client, line)
    assert run.info.status == "FAILED"
    assert "no documents are left" in run.data.tags["mlflow.note.content"]
    assert client.get_run(line.links["mlflow_run"]).info.status == "FAILED"


def test_a_resumed_stage_keeps_the_curve_from_before_the_interruption(
    home: Path, client: MlflowClient, tmp_path: Path
) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.metrics(1, {"loss": 9.0})
    journal.progress("steps", 1, 2)
    line = open_line(home, "resumed")
    line.stage_started(Started("pretrain", tmp_path, status="resume"))
    line.stage_event("pretrain", {"kind": "metrics", "step": 2, "values": {"loss": 8.0}, "time": time.time()})
    line.stage_finished("pretrain", manifest("pretrain", line.links), tmp_path, reused=False)
    (run,) = children(client, line)
    assert [m.value for m in client.get_metric_history(run.info.run_id, "loss")] == [9.0, 8.0]


def test_a_second_try_of_an_attempt_continues_its_run_and_killed_runs_are_closed(
    home: Path, client: MlflowClient, tmp_path: Path
) -> None:
    first = open_line(home, "again")
    first.stage_started(Started("clean", tmp_path))  # and then its process is killed: both runs say RUNNING
    lost = children(client, first)[0].info.run_id
    second = open_line(home, "again", "one")
    assert second.links["mlflow_run"] == first.links["mlflow_run"]
    assert client.get_run(lost).info.status == "KILLED"
    assert client.get_run(second.links["mlflow_run"]).info.status == "RUNNING"
    other = open_line(home, "again", "two")
    assert other.links["mlflow_run"] != first.links["mlflow_run"]


def test_the_recipe_comes_back_from_a_line_and_from_one_of_its_stages(
    home: Path, client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = open_line(home, "recipe")
    build(line, "clean", tmp_path / "artifact")
    monkeypatch.setenv("MILL_HOME", str(home))
    assert recipe_of(line.links["mlflow_run"]) == RECIPE | {"name": "recipe"}
    assert recipe_of(children(client, line)[0].info.run_id, home) == RECIPE | {"name": "recipe"}
    with pytest.raises(InputError, match="no recipe for run 'nothing'"):
        recipe_of("nothing", home)


def test_a_release_is_registered_once_with_its_alias_and_without_a_copy(
    home: Path, client: MlflowClient, tmp_path: Path
) -> None:
    artifact = home / "artifacts" / "release"
    (artifact / "model").mkdir(parents=True)
    (artifact / "model" / "model.safetensors").write_bytes(b"weights")
    for attempt in ("one", "two"):
        line = open_line(home, "release", attempt)
        line.stage_finished("release", manifest("release", line.links, "release"), artifact, reused=attempt == "two")
    version = client.get_model_version_by_alias("small-model", ALIAS)
    assert version.version == "1" or version.version == 1
    place = client.get_run(version.run_id or "").info.artifact_uri or ""
    linked = Path(place.removeprefix("file://")) / "model" / "model.safetensors"
    assert linked.samefile(artifact / "model" / "model.safetensors")
    digest = manifest("release", {}, "release")["digest"]
    assert aliased_releases(home)[digest] == "alias current of model small-model in MLflow's registry"


def test_which_releases_have_an_alias_is_asked_of_the_registry_that_runs_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert aliased_releases(tmp_path) == {}  # no run, no registry
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(ResourceError, match=r"http://127\.0\.0\.1:9 does not answer"):
        aliased_releases(tmp_path)


def test_twelve_reused_stages_take_less_than_three_seconds(home: Path, client: MlflowClient, tmp_path: Path) -> None:
    open_line(home, "noop").finish(None)
    started = time.process_time()
    line = open_line(home, "noop", "two")
    for number in range(12):
        line.stage_finished(f"stage-{number}", manifest("clean", {}), tmp_path, reused=True)
    line.finish(None)
    assert time.process_time() - started < 3


def test_a_report_page_is_kept_with_the_line(home: Path, client: MlflowClient, tmp_path: Path) -> None:
    line = open_line(home, "report")
    page = tmp_path / "report.html"
    page.write_text("<h1>report</h1>")
    log_report(page, line.links["mlflow_run"], home)
    kept = {file.path for file in client.list_artifacts(line.links["mlflow_run"])}
    assert kept == {"recipe.yaml", "report.html"}


def test_a_server_that_does_not_answer_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(ResourceError, match=r"http://127\.0\.0\.1:9 does not answer"):
        open_line(home, "nobody")


def test_metric_names_are_made_fit() -> None:
    assert metric_name("loss@1k (µ)") == "loss_1k ___"
    assert metric_name("bits/py thon-1.0:x") == "bits/py thon-1.0:x"
