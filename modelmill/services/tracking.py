"""Events of a running line → MLflow: one parent run a line, one child run a stage, and the registered release.

Everything is logged from the process that runs the line, never from Ray workers, and in batches.
"""

import contextlib
import logging
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import httpx
from mlflow import MlflowClient
from mlflow.entities import Metric, Run, RunTag
from mlflow.exceptions import MlflowException

from modelmill.services.databases import mlflow_artifacts, mlflow_database, mlflow_lock, prepare_mlflow
from modelmill.services.lineage import dataset_inputs, flat_params, made_by, summary_note
from modelmill.services.locks import locked
from modelmill.services.login import mlflow_login
from modelmill.services.registry import register_release
from modelmill.services.stack import stack_environment
from modelmill.services.store import Store
from modelmill.tasks.errors import InputError, ResourceError
from modelmill.tasks.journal import read_events
from modelmill.tasks.yaml_text import parse_yaml

NOTE = "mlflow.note.content"
PARENT = "mlflow.parentRunId"
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}  # its pages for training, not for GenAI
_FLUSH_SECONDS = 5.0
_METRICS_PER_BATCH = 1000  # MLflow's limit for one log_batch


class Started(Protocol):
    """What the recorder reads of the runner's `StageStarted`."""

    @property
    def id(self) -> str: ...
    @property
    def stage(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def why(self) -> tuple[str, ...]: ...
    @property
    def recipe_part(self) -> dict[str, Any]: ...
    @property
    def inputs(self) -> list[tuple[str, str]]: ...
    @property
    def workspace(self) -> Path: ...


class LineTracking:
    """Records one line run in MLflow; an observer of the runner.

    `links` gets `mlflow` (where to look), `mlflow_run` (the parent's id) and, while a stage runs, `mlflow_stage_run`.
    `attempt` names the run of the line: a second try of the same attempt continues its parent run.

    Raises:
        ResourceError: MLFLOW_TRACKING_URI names a server that does not answer.
    """

    def __init__(
        self, home: Path, name: str, recipe: dict[str, Any], links: dict[str, str], attempt: str, command: str
    ) -> None:
        self.uri = tracking_uri(home)
        self.links = links
        self._home = home
        self._name = name
        self._client, self._experiment = _open_experiment(home, self.uri, name)
        self._end_abandoned_runs()
        self._parent = self._open_parent(recipe, attempt, command)
        self._child: str | None = None
        self._metrics: list[Metric] = []
        self._flushed = time.monotonic()
        links["mlflow_run"] = self._parent
        links["mlflow"] = self.run_url(self._parent)

    def run_url(self, run_id: str) -> str:
        """Where a run is seen: its page, or the database that `mill up` shows."""
        if not self.uri.startswith("http"):
            return f"{self.uri} run {run_id}"
        return f"{self.uri}/#/experiments/{self._experiment}/runs/{run_id}"

    def stage_started(self, event: Started) -> None:
        self._child = self._create_child(event.id, event.stage, event.key, {"modelmill.status": event.status})
        self.links["mlflow_stage_run"] = self._child
        self._client.log_batch(self._child, params=flat_params(event.recipe_part), synchronous=True)
        self._client.set_tag(self._child, NOTE, f"{event.status}: " + "; ".join(event.why))
        self._log_inputs([{"type": kind, "digest": digest} for kind, digest in event.inputs], event.id)
        # A resumed stage continues its curves: what it measured before the interruption is still in its journal.
        for earlier in read_events(event.workspace / "journal.jsonl", 0)[0]:
            self.stage_event(event.id, earlier)

    def stage_event(self, stage_id: str, event: dict[str, Any]) -> None:
        if event["kind"] != "metrics" or self._child is None:
            return
        milliseconds = int(event["time"] * 1000)
        for name, value in event["values"].items():
            self._metrics.append(Metric(metric_name(name), float(value), milliseconds, int(event["step"])))
        if len(self._metrics) >= _METRICS_PER_BATCH or time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self._flush()

    def stage_finished(self, stage_id: str, manifest: dict[str, Any], artifact: Path, reused: bool) -> None:
        if self._child is None:
            self._child = self._create_child(
                stage_id, manifest["stage"], manifest["key"], {"modelmill.status": "reuse" if reused else "build"}
            )
            self._log_inputs(manifest["inputs"], stage_id)
        self._flush()
        self._client.log_batch(
            self._child, metrics=_final_metrics(manifest), tags=self._final_tags(manifest, reused), synchronous=True
        )
        if not reused:
            self._client.log_dict(self._child, manifest, "manifest.json")
            self._client.log_text(self._child, manifest["summary"], "summary.md")
            report = Store(self._home).evidence_path(manifest) / "report"
            if report.is_dir():
                self._client.log_artifacts(self._child, str(report), "report")
        if manifest["type"] == "release":
            name = manifest["recipe_part"].get("name", self._name)
            register_release(self._client, name, artifact / "model", self._child, manifest["digest"])
        self._close_child("FINISHED")

    def stage_failed(self, stage_id: str, error: BaseException) -> None:
        if self._child is None:
            return
        self._flush()
        with _said_only():
            self._client.set_tag(self._child, NOTE, f"**{type(error).__name__}**: {error}"[:5000])
            self._close_child("FAILED" if isinstance(error, Exception) else "KILLED")

    def finish(self, error: BaseException | None) -> None:
        """End the parent run."""
        if error is None:
            self._client.set_terminated(self._parent, "FINISHED")
            return
        with _said_only():
            self._client.set_tag(self._parent, NOTE, f"**{type(error).__name__}**: {error}"[:5000])
            self._client.set_terminated(self._parent, "FAILED" if isinstance(error, Exception) else "KILLED")

    def _open_parent(self, recipe: dict[str, Any], attempt: str, command: str) -> str:
        earlier = self._search(f"tags.`modelmill.attempt` = '{attempt}'")
        if earlier:
            run_id = earlier[0].info.run_id
            self._client.update_run(run_id, status="RUNNING")
            return run_id
        tags = {"modelmill.attempt": attempt, "modelmill.home": str(self._home), "mlflow.source.name": command}
        if commit := git_commit():
            tags["mlflow.source.git.commit"] = commit
        name = f"{self._name} {time.strftime('%Y-%m-%d %H:%M:%S')}"
        run_id = self._client.create_run(self._experiment, tags=tags, run_name=name).info.run_id
        header = {name: recipe[name] for name in ("name", "description", "compute")}
        self._client.log_batch(run_id, params=flat_params(header | {"command": command}), synchronous=True)
        self._client.log_dict(run_id, recipe, "recipe.yaml")
        return run_id

    def _end_abandoned_runs(self) -> None:
        """Runs of this home that were killed still say RUNNING; the caller holds the line's lock, so none really is."""
        for run in self._search(f"attributes.status = 'RUNNING' and tags.`modelmill.home` = '{self._home}'"):
            self._client.set_terminated(run.info.run_id, "KILLED")

    def _search(self, condition: str) -> list[Run]:
        return list(self._client.search_runs([self._experiment], condition, max_results=200))

    def _create_child(self, stage_id: str, stage: str, key: str, tags: dict[str, str]) -> str:
        tags = tags | {PARENT: self._parent, "modelmill.home": str(self._home)}
        tags |= {"modelmill.stage": stage, "modelmill.key": key, "mlflow.source.name": f"stage {stage}"}
        return self._client.create_run(self._experiment, tags=tags, run_name=stage_id).info.run_id

    def _log_inputs(self, inputs: list[dict[str, Any]], context: str) -> None:
        assert self._child is not None
        if inputs:
            self._client.log_inputs(self._child, dataset_inputs(inputs, self._home, context))

    def _final_tags(self, manifest: dict[str, Any], reused: bool) -> list[RunTag]:
        tags = {"modelmill.digest": manifest["digest"], NOTE: summary_note(manifest, reused, self._experiment)}
        if reused:
            tags |= {"reused": "true", "modelmill.made_by": made_by(manifest) or "a run without MLflow"}
        return [RunTag(name, value) for name, value in tags.items()]

    def _flush(self) -> None:
        """Send the collected metrics; if MLflow does not take them now they are kept for the next time."""
        self._flushed = time.monotonic()
        while self._metrics and self._child is not None:
            batch = self._metrics[:_METRICS_PER_BATCH]
            try:
                self._client.log_batch(self._child, metrics=batch, synchronous=True)
            except MlflowException:
                return  # `stage_finished` fails on the same trouble with its message, when the artifact is safe
            self._metrics = self._metrics[len(batch) :]

    def _close_child(self, status: str) -> None:
        assert self._child is not None
        self._client.set_terminated(self._child, status)
        self.links.pop("mlflow_stage_run", None)
        self._child, self._metrics = None, []


@contextlib.contextmanager
def _said_only() -> Iterator[None]:
    """What MLflow cannot take is logged: the error that was to be recorded is the one to be raised."""
    try:
        yield
    except MlflowException as trouble:
        logging.getLogger(__name__).warning("MLflow did not take the error: %s", str(trouble).splitlines()[0])


def prepare_tracking(home: Path) -> None:
    """Open MLflow, and create its embedded database if there is none: worth doing while something else starts."""
    uri = tracking_uri(home)
    if uri.startswith("http"):
        return
    _prepare_database(home, uri)
    with locked(mlflow_lock(home)):  # whoever opens a database first adds the default experiment
        MlflowClient(uri, uri).search_experiments(max_results=1)


def _prepare_database(home: Path, uri: str) -> None:
    if uri == mlflow_database(home):
        prepare_mlflow(home)


def tracking_uri(home: Path) -> str:
    """MLFLOW_TRACKING_URI, else the running stack's server, else the embedded database of the home.

    MLflow's client takes a login from the environment; that of the home's own server is put there.
    """
    running = stack_environment(home).get("MLFLOW_TRACKING_URI")
    uri = os.environ.get("MLFLOW_TRACKING_URI") or running or mlflow_database(home)
    if uri == running:
        os.environ |= mlflow_login(home)
    return uri


def recipe_of(run_id: str, home: Path | None = None) -> dict[str, Any]:
    """The resolved recipe of a line's run, or of the line to which a stage's run belongs (home: that of MILL_HOME).

    Raises:
        InputError: there is no such run, or it is none of Modelmill's.
    """
    uri = tracking_uri(home or Path(os.environ["MILL_HOME"]))
    client = MlflowClient(uri, uri)
    try:
        run = client.get_run(run_id)
        path = client.download_artifacts(run.data.tags.get(PARENT, run_id), "recipe.yaml")
    except (MlflowException, OSError) as error:
        raise InputError(
            f"MLflow at {uri} has no recipe for run {run_id!r} ({error}). "
            "Expected the id of a run of a line or of one of its stages; MLFLOW_TRACKING_URI chooses the server."
        ) from error
    recipe = parse_yaml(Path(path).read_text(encoding="utf-8"), f"the recipe of MLflow run {run_id}")
    if not isinstance(recipe, dict):
        raise InputError(f"the recipe of MLflow run {run_id} is {type(recipe).__name__}; expected a mapping")
    return recipe


def log_report(page: Path, run_id: str, home: Path) -> None:
    """Keep a report page with the run of its line (`links["mlflow_run"]` of the newest run)."""
    uri = tracking_uri(home)
    MlflowClient(uri, uri).log_artifact(run_id, str(page))


def git_commit() -> str | None:
    """The commit of the code that runs, when it lies in a git repository."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def metric_name(name: str) -> str:
    """A name that MLflow takes: others than letters, digits and `_-. :/` become `_`."""
    return re.sub(r"[^\w\-. :/]", "_", name, flags=re.ASCII)


def _final_metrics(manifest: dict[str, Any]) -> list[Metric]:
    counts = manifest["counts"]
    values: dict[str, float] = {"rows/in": counts["in"], "rows/out": counts["out"]}
    values |= {f"dropped/{reason}": number for reason, number in counts["dropped"].items()}
    values |= {"seconds": manifest["seconds"], "peak_memory_bytes": manifest["peak_memory_bytes"]}
    values |= {f"final/{name}": value for name, value in manifest["metrics"].items()}
    milliseconds = int(manifest["created"] * 1000)
    return [Metric(metric_name(name), float(value), milliseconds, 0) for name, value in values.items()]


def _open_experiment(home: Path, uri: str, name: str) -> tuple[MlflowClient, str]:
    if uri.startswith("http"):
        require_server(uri)
    _prepare_database(home, uri)
    client = MlflowClient(uri, uri)
    embedded = not uri.startswith("http")
    with locked(mlflow_lock(home)):
        try:
            found = client.get_experiment_by_name(name)
            if found:
                return client, found.experiment_id
            # A server knows better where its artifacts belong.
            location = mlflow_artifacts(home) if embedded else None
            return client, client.create_experiment(name, artifact_location=location, tags=_EXPERIMENT_TAGS)
        except MlflowException as error:
            raise ResourceError(f"MLflow at {uri} cannot be used: {error}") from error


def require_server(uri: str) -> None:
    """Raises ResourceError when MLflow's server does not answer."""
    try:
        httpx.get(f"{uri}/health", timeout=20).raise_for_status()
    except httpx.HTTPError as error:
        raise ResourceError(
            f"MLflow at {uri} does not answer ({error}). Start that server (`mill up` starts one here), "
            "or unset MLFLOW_TRACKING_URI to use the embedded database."
        ) from error
