"""Events of a running line → what Prefect's pages show: progress, a summary of each stage, and links."""

import logging
import re
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.filters import FlowRunFilter
from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import PrefectHTTPStatusError
from prefect.logging import get_run_logger
from prefect.states import Crashed

from modelmill.flows.runner import StageStarted

_UPDATE_SECONDS = 1.0


class PrefectObserver:
    """Writes progress artifacts while a stage runs, and a summary when it ends; an observer of the runner.

    What Prefect's API refuses or misses is logged and lost: a page is not worth a stage.
    """

    def __init__(self, links: dict[str, str]) -> None:
        self._links = links
        self._client: SyncPrefectClient = get_client(sync_client=True)
        self._run: dict[str, Any] = {}
        self._logger: logging.Logger | logging.LoggerAdapter[Any] = logging.getLogger(__name__)
        self._why: str = ""
        self._bars: dict[str, tuple[UUID, float]] = {}

    def stage_started(self, event: StageStarted) -> None:
        self._enter_run()
        self._why = f"{event.status}: " + "; ".join(event.why)
        self._logger.info("%s %s (key %s)", event.id, self._why, event.key[:16])

    def stage_event(self, stage_id: str, event: dict[str, Any]) -> None:
        if event["kind"] == "progress":
            self._show_progress(stage_id, event)
        elif event["kind"] == "note":
            self._logger.warning("%s: %s", stage_id, event["text"])

    def stage_finished(self, stage_id: str, manifest: dict[str, Any], artifact: Path, reused: bool) -> None:
        if reused:
            self._enter_run()
            self._why = "reuse: its key and its artifact are unchanged"
        summary = stage_summary(manifest, artifact, self._why, self._links)
        self._create("markdown", f"{slug(stage_id)}-summary", summary, f"{stage_id}: what went in and came out")

    def stage_failed(self, stage_id: str, error: BaseException) -> None:
        self._logger.error("%s: %s: %s", stage_id, type(error).__name__, error)

    def _enter_run(self) -> None:
        """Remember the run that the stage belongs to: events arrive from another thread, which has no context."""
        task, flow = TaskRunContext.get(), FlowRunContext.get()
        self._run = {"task_run_id": task.task_run.id} if task else {}
        if flow and flow.flow_run:
            self._run["flow_run_id"] = flow.flow_run.id
        self._logger = get_run_logger()
        self._bars = {}

    def _show_progress(self, stage_id: str, event: dict[str, Any]) -> None:
        label, done, total = str(event["label"]), float(event["done"]), float(event["total"])
        percent = 100.0 * min(done / total, 1.0) if total else 0.0
        bar, shown = self._bars.get(label, (None, 0.0))
        if bar is None:
            created = self._create("progress", f"{slug(stage_id)}-{slug(label)}", percent, f"{stage_id}: {label}")
            if created:
                self._bars[label] = (created, time.monotonic())
        elif done >= total or time.monotonic() - shown > _UPDATE_SECONDS:
            self._bars[label] = (bar, time.monotonic())
            described = f"{stage_id}: {label}, {done:,.0f} of {total:,.0f} {event.get('unit', '')}".rstrip()
            self._update(bar, percent, described)

    def _create(self, kind: str, key: str, data: Any, description: str) -> UUID | None:
        artifact = ArtifactCreate(type=kind, key=key, data=data, description=description, **self._run)
        try:
            return self._client.create_artifact(artifact).id
        except (httpx.HTTPError, PrefectHTTPStatusError) as error:
            self._logger.warning("Prefect did not take artifact %s: %s", key, error)
            return None

    def _update(self, artifact: UUID, percent: float, description: str) -> None:
        try:
            self._client.update_artifact(artifact, ArtifactUpdate(data=percent, description=description))
        except (httpx.HTTPError, PrefectHTTPStatusError) as error:
            self._logger.warning("Prefect did not take a progress update: %s", error)


def stage_summary(manifest: dict[str, Any], artifact: Path, why: str, links: dict[str, str]) -> str:
    """The markdown of a stage's page: why it ran, counts by reason, seconds, key, waivers and where to look on."""
    counts = manifest["counts"]
    lines = [f"## {manifest['id']}", why, "", "| | |", "|---|---|"]
    lines += [f"| in | {counts['in']:,} |", f"| out | {counts['out']:,} {counts['unit']} |"]
    dropped = sorted(counts["dropped"].items(), key=lambda item: -item[1])
    lines += [f"| dropped: {reason} | {number:,} |" for reason, number in dropped]
    lines += [f"| seconds | {manifest['seconds']:.1f} |"]
    lines += [f"| peak memory | {manifest['peak_memory_bytes'] / 1e6:,.0f} MB |"]
    lines += [f"| key | `{manifest['key'][:16]}` |", f"| artifact | `{artifact}` |"]
    lines += [f"| {name} | {value:,.4g} |" for name, value in sorted(manifest["metrics"].items())]
    lines += [f"| waived | {waiver} |" for waiver in manifest["waivers"]]
    lines += [f"| {name} | {_link(place)} |" for name, place in _places(artifact, links).items()]
    return "\n".join([*lines, "", manifest["summary"]])


def _places(artifact: Path, links: dict[str, str]) -> dict[str, str]:
    places = {"MLflow, the line": links["mlflow"]} if "mlflow" in links else {}
    if "mlflow_stage_run" in links and "mlflow" in links:
        places["MLflow, this stage"] = links["mlflow"].replace(links["mlflow_run"], links["mlflow_stage_run"])
    if (artifact / "report").is_dir():
        places["report"] = str(artifact / "report")
    return places


def _link(place: str) -> str:
    return f"[{place}]({place})" if place.startswith("http") else f"`{place}`"


def slug(text: str) -> str:
    """Lower-case letters, digits and dashes, as Prefect wants an artifact's key."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def claim_flow_run(home: Path, recipe: str) -> None:
    """Tag the current flow run with its home and recipe, and end runs of the same that say Running but are not.

    The caller holds the line's lock, so that whoever says so was killed.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    tags = line_tags(home, recipe)
    client = get_client(sync_client=True)
    client.update_flow_run(context.flow_run.id, tags=sorted({*context.flow_run.tags, *tags}))
    running = {"state": {"type": {"any_": ["RUNNING"]}}, "tags": {"all_": tags}}
    for run in client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(running)):
        if run.id != context.flow_run.id:
            client.set_flow_run_state(run.id, Crashed(message="Its process ended without a word."), force=True)


def line_tags(home: Path, recipe: str) -> list[str]:
    """Tags of every flow run of a recipe in a home."""
    return [f"home:{home}", f"recipe:{recipe}"]
