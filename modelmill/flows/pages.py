"""Events of a running line → what Prefect's pages show: progress, a summary of each stage, and links."""

import logging
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.filters import FlowRunFilter
from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import PrefectHTTPStatusError
from prefect.logging import get_run_logger
from prefect.states import Crashed

from modelmill.flows.observers import StageStarted
from modelmill.services.store import Store

_UPDATE_SECONDS = 1.0


class PrefectObserver:
    """Writes progress artifacts while a stage runs, and a summary when it ends; an observer of the runner.

    `links` is shared with the other observers and shown in the summaries.
    What Prefect's API refuses or misses is logged and lost: a page is not worth a stage.
    """

    def __init__(self, client: SyncPrefectClient, stage_ids: Sequence[str], store: Store) -> None:
        """`stage_ids` are the stages that this run will go through, for the line's own progress bar."""
        self.links: dict[str, str] = {}
        self._waiting = list(stage_ids)
        self._finished: list[tuple[str, dict[str, Any], bool]] = []
        self._client = client
        self._store = store
        self._run: dict[str, Any] = {}
        self._logger: logging.Logger | logging.LoggerAdapter[Any] = logging.getLogger(__name__)
        self._started, self._why = "", ""
        self._bars: dict[str, tuple[UUID, float]] = {}
        self._enter_run()
        self._line = dict(self._run)
        self._line_bar = self._create("progress", "line-stages", 0.0, self._line_words()) if stage_ids else None

    def stage_started(self, event: StageStarted) -> None:
        self._enter_run()
        self._started = event.id
        self._why = f"{event.status}: " + "; ".join(event.why)
        self._logger.info("%s %s (key %s)", event.id, self._why, event.key[:16])

    def stage_event(self, stage_id: str, event: dict[str, Any]) -> None:
        if event["kind"] == "progress":
            self._show_progress(stage_id, event)
        elif event["kind"] == "note":
            self._logger.warning("%s: %s", stage_id, event["text"])

    def stage_finished(self, stage_id: str, manifest: dict[str, Any], artifact: Path, reused: bool) -> None:
        if self._started != stage_id:
            self._enter_run()
            self._why = "reuse: its key and its artifact are unchanged"
            if not reused:
                self._why = "published: its output was complete when an earlier run was killed"
        summary = stage_summary(manifest, artifact, self._store.evidence_path(manifest), self._why, self.links)
        self._create("markdown", f"{slug(stage_id)}-summary", summary, f"{stage_id}: what went in and came out")
        self._finished.append((stage_id, manifest, reused))
        self._waiting = [other for other in self._waiting if other != stage_id]
        if self._line_bar:
            share = len(self._finished) / (len(self._finished) + len(self._waiting))
            self._update(self._line_bar, 100.0 * share, self._line_words())

    def stage_failed(self, stage_id: str, error: BaseException) -> None:
        self._logger.error("%s: %s: %s", stage_id, type(error).__name__, error)

    def finish(self, error: BaseException | None) -> None:
        """Leave the line's own summary on its page."""
        if self._line_bar:
            self._run = self._line
            summary = line_summary(self._finished, self._waiting, error, self.links)
            self._create("markdown", "line-summary", summary, "the line, stage by stage")

    def _line_words(self) -> str:
        names = [stage_id for stage_id, _, _ in self._finished]
        return f"stages finished: {', '.join(names) or 'none'}; to come: {', '.join(self._waiting) or 'none'}"

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


def stage_summary(manifest: dict[str, Any], artifact: Path, evidence: Path, why: str, links: dict[str, str]) -> str:
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
    lines += [f"| {name} | {_link(place)} |" for name, place in _places(evidence, links).items()]
    return "\n".join([*lines, "", manifest["summary"]])


def line_summary(
    finished: Sequence[tuple[str, dict[str, Any], bool]],
    waiting: Sequence[str],
    error: BaseException | None,
    links: dict[str, str],
) -> str:
    """The markdown of the line's page: a row a stage, and what stopped it."""
    lines = ["| stage | | in | out | seconds | artifact |", "|---|---|---:|---:|---:|---|"]
    for stage_id, manifest, reused in finished:
        counts, word = manifest["counts"], "reused" if reused else "built"
        flow = f"{counts['in']:,} | {counts['out']:,} {counts['unit']}"
        lines.append(f"| {stage_id} | {word} | {flow} | {manifest['seconds']:.1f} | `{manifest['digest'][:12]}` |")
    lines += [f"| {stage_id} | not run | | | | |" for stage_id in waiting]
    if error is not None:
        lines += ["", f"**{type(error).__name__}**: {error}"]
    if "mlflow" in links:
        lines += ["", f"MLflow: {_link(links['mlflow'])}"]
    return "\n".join(lines)


def _places(evidence: Path, links: dict[str, str]) -> dict[str, str]:
    places = {"MLflow, the line": links["mlflow"]} if "mlflow" in links else {}
    if "mlflow_stage_run" in links and "mlflow" in links:
        places["MLflow, this stage"] = links["mlflow"].replace(links["mlflow_run"], links["mlflow_stage_run"])
    if (evidence / "report").is_dir():
        places["report"] = str(evidence / "report")
    return places


def _link(place: str) -> str:
    return f"[{place}]({place})" if place.startswith("http") else f"`{place}`"


def slug(text: str) -> str:
    """Lower-case letters, digits and dashes, as Prefect wants an artifact's key."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def claim_flow_run(client: SyncPrefectClient, home: Path, recipe: str) -> None:
    """Tag the current flow run with its home and recipe, and end runs of the same that say Running but are not.

    The caller holds the line's lock, so that whoever says so was killed.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    tags = line_tags(home, recipe)
    client.update_flow_run(context.flow_run.id, tags=sorted({*context.flow_run.tags, *tags}))
    running = {"state": {"type": {"any_": ["RUNNING"]}}, "tags": {"all_": tags}}
    for run in client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(running)):
        if run.id != context.flow_run.id:
            client.set_flow_run_state(run.id, Crashed(message="Its process ended without a word."), force=True)


def line_tags(home: Path, recipe: str) -> list[str]:
    """Tags of every flow run of a recipe in a home."""
    return [f"home:{home}", f"recipe:{recipe}"]
