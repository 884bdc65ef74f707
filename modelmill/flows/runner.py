"""One stage of a line → reused, or built in its workspace, checked, published and reported to observers."""

import contextlib
import functools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelmill.flows.building import run_stage_code
from modelmill.flows.memory import PeakMemory
from modelmill.flows.observers import Following, Observer, StageStarted
from modelmill.flows.plan import PlanEntry, plan_identity
from modelmill.flows.recipe import Line, Node
from modelmill.services.compute import Compute
from modelmill.services.identity import Identity, identity_config, scores_alike, stage_identity
from modelmill.services.lines import STARTED, save_line
from modelmill.services.store import Store, read_artifact_manifest, require_free_space
from modelmill.tasks.errors import ContractError, RecipeError
from modelmill.tasks.files import raise_if_disk_full, remove_path, write_json
from modelmill.tasks.journal import Journal
from modelmill.tasks.stage import SCORES, Artifact, StageResult


@dataclass
class Session:
    """A line being run: what is finished, and the services that the stages share."""

    line: Line
    home: Path
    compute: Compute
    observers: Sequence[Observer] = ()
    force: frozenset[str] = frozenset()
    links: dict[str, str] = field(default_factory=dict)
    plans: dict[str, PlanEntry] = field(default_factory=dict)
    started: dict[str, Identity] = field(default_factory=dict)
    _sampler: Any = None

    @property
    def store(self) -> Store:
        return Store(self.home)

    def run_stage(self, stage_id: str) -> dict[str, Any]:
        """Reuse or build one stage, whose inputs must be finished; returns its manifest.

        Raises:
            RecipeError: an input is not finished. Whatever the stage raises is told to the observers and raised.
        """
        node = self.line.node(stage_id)
        identity = stage_identity(node.spec, node.config, self._input_digests(node))
        if (manifest := self._reuse(node, identity)) is not None:
            return manifest
        busy = functools.partial(self._say_busy, stage_id)
        with _full_disk_said(self.home), self.store.locked_workspace(node.spec.name, identity.key, busy) as workspace:
            # Another process may have built it while this one waited for the workspace.
            if (manifest := self._reuse(node, identity)) is not None:
                return manifest
            entry = plan_identity(node, identity, self.store, stage_id in self.force)
            self.started[stage_id] = identity
            self.record()  # from here on `mill gc` knows what this stage is made from
            manifest = self._build(node, identity, entry, workspace)
        self._finish(entry, manifest, reused=False)
        return manifest

    def reuse_stage(self, stage_id: str) -> bool:
        """Take one stage as it is in the store; False if it has to be built."""
        node = self.line.node(stage_id)
        return self._reuse(node, stage_identity(node.spec, node.config, self._input_digests(node))) is not None

    def reuse_before(self, stage_id: str) -> None:
        """Take every stage before `stage_id` as it is in the store.

        Raises:
            RecipeError: one of them is not finished.
        """
        for node in self.line.nodes:
            if node.id == stage_id:
                return
            if node.id in self.plans or self.reuse_stage(node.id):
                continue
            identity = stage_identity(node.spec, node.config, self._input_digests(node))
            entry = plan_identity(node, identity, self.store)
            raise RecipeError(
                f"cannot start at {stage_id}: stage {node.id} before it is not finished "
                f"({entry.status}: {'; '.join(entry.why)}). Run `mill run {self.line.name} --to {node.id}` first."
            )

    def _reuse(self, node: Node, identity: Identity) -> dict[str, Any] | None:
        """Take a stage's artifact from the store if it is there, whole and not to be built by force."""
        entry = plan_identity(node, identity, self.store, node.id in self.force)
        if entry.manifest is None:
            return None
        self.store.damage(entry.manifest, trust_unknown=True)  # what has to be read for it is read before others wait
        try:
            with self.store.locked():  # `mill gc` removes nothing between its being found and its being recorded
                entry = plan_identity(node, identity, self.store)
                if entry.manifest is None:
                    return None
                self.store.require_whole(entry.manifest, node.id, trust_unknown=True)
                self._note(entry, entry.manifest, "reuse")
        except ContractError as error:
            self.record((node.id, str(error)))  # so that `mill rerun` without a recipe is about this one
            raise
        self._tell_finished(node.id, entry.manifest, reused=True)
        return entry.manifest

    def sampler(self) -> Any:
        """The inference engine that the stages of this line share, started at its first use."""
        if self._sampler is None:
            from modelmill.services.inference import start_sampler

            self._sampler = start_sampler(self.compute)
        return self._sampler

    def close(self) -> None:
        """Stop the sampler and leave Ray."""
        if self._sampler is not None:
            self._sampler.close()
            self._sampler = None
        self.compute.stop()

    def _say_busy(self, stage_id: str) -> None:
        note = {"kind": "note", "text": f"{stage_id} is being built by another process; waiting for it to end"}
        for observer in self.observers:
            observer.stage_event(stage_id, note)

    def _input_digests(self, node: Node) -> list[tuple[str, str]]:
        for _, maker in node.inputs:
            if maker not in self.plans:
                raise RecipeError(f"stage {node.id} needs {maker}, which is not finished")
        return [(kind, self.plans[maker].digest or "") for kind, maker in node.inputs]

    def _artifacts(self, node: Node, identity: Identity) -> dict[str, list[Artifact]]:
        """The artifacts that a stage will read, all of them whole."""
        for digest in identity.external.values():
            if earlier := read_artifact_manifest(self.store.artifact_path(digest)):
                self.store.require_whole(earlier, earlier["id"])
        artifacts: dict[str, list[Artifact]] = {}
        for kind, maker in node.inputs:
            manifest = self.plans[maker].manifest
            assert manifest is not None
            self.store.require_whole(manifest, maker)
            artifacts.setdefault(kind, []).append(self.store.artifact(manifest, maker))
        return artifacts

    def _build(self, node: Node, identity: Identity, entry: PlanEntry, workspace: Path) -> dict[str, Any]:
        published = self.store.publish_complete(workspace)
        if published:
            return published
        started = time.time()
        recipe_part = node.config.model_dump(mode="json")
        if entry.status != "resume":
            for leftover in workspace.iterdir():
                remove_path(leftover)
            (workspace / "output").mkdir()
        journal = Journal(workspace / "journal.jsonl")
        for observer in self.observers:
            observer.stage_started(
                StageStarted(
                    node.id, node.spec.name, identity.key, entry.status, entry.why, recipe_part,
                    [(kind, digest) for kind, digest in identity.inputs], workspace,
                )
            )  # fmt: skip
        try:
            with _full_disk_said(workspace):
                with Following(journal, node.id, self.observers), PeakMemory() as memory:
                    write_json(workspace / "identity.json", identity.as_dict())
                    inputs = self._artifacts(node, identity)
                    result = self._run(node, inputs, workspace, journal, self._scored(node, identity))
                manifest = _manifest(node, identity, entry, inputs, result, started, memory.peak_bytes)
                return self.store.publish(workspace, manifest | {"recipe_part": recipe_part, "links": dict(self.links)})
        except BaseException as error:
            for observer in self.observers:
                observer.stage_failed(node.id, error)
            raise

    def _scored(self, node: Node, identity: Identity) -> Path | None:
        """Scores of the newest build that hold for this one too, unless the stage is forced to do all again."""
        if node.id in self.force:
            return None
        for build in self.store.builds(node.spec.name):
            if scores_alike(identity, node.config, build) and (scores := self.store.whole_part(build, SCORES)):
                return scores
        return None

    def _run(
        self,
        node: Node,
        inputs: dict[str, list[Artifact]],
        workspace: Path,
        journal: Journal,
        scored: Path | None,
    ) -> StageResult:
        require_free_space(self.home, _expected_bytes(inputs, self.store.builds(node.spec.name)))
        return run_stage_code(node, inputs, workspace, journal, self.compute, self.sampler, scored)

    def _finish(self, entry: PlanEntry, manifest: dict[str, Any], reused: bool) -> None:
        self._note(entry, manifest, "reuse" if reused else entry.status)
        self._tell_finished(entry.id, manifest, reused)

    def _note(self, entry: PlanEntry, manifest: dict[str, Any], status: str) -> None:
        self.plans[entry.id] = PlanEntry(
            entry.id, entry.stage, status, entry.why, manifest["key"], manifest["digest"], manifest["seconds"], manifest
        )
        self.started.pop(entry.id, None)
        self.record()

    def _tell_finished(self, stage_id: str, manifest: dict[str, Any], reused: bool) -> None:
        for observer in self.observers:
            observer.stage_finished(stage_id, manifest, self.store.artifact_path(manifest["digest"]), reused)

    def record(self, failed: tuple[str, str] | None = None) -> None:
        """Write what is known of this run of the line, for `mill show`, `mill gc` and the report."""
        stages = []
        for node in self.line.nodes:
            entry = self.plans.get(node.id)
            view = entry.as_dict() if entry else {"id": node.id, "stage": node.spec.name, "status": "waiting"}
            if identity := self.started.get(node.id):
                view |= {"status": STARTED, "key": identity.key, "external": list(identity.external.values())}
            if failed and failed[0] == node.id:
                view |= {"status": "failed", "error": failed[1]}
            stages.append(view)
        record = {"name": self.line.name, "recipe": self.line.resolved(), "stages": stages, "links": self.links}
        save_line(self.home, self.line.name, record | {"time": time.time(), "overrides": list(self.line.overrides)})


@contextlib.contextmanager
def _full_disk_said(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise_if_disk_full(error, path)
        raise


def _expected_bytes(inputs: dict[str, list[Artifact]], builds: list[dict[str, Any]]) -> int:
    """Disk to expect: what the last build of the stage took, or else as much as its inputs, and 50 MB."""
    if builds:
        return sum(file["bytes"] for file in builds[0]["files"]) + 50_000_000
    artifacts = [artifact for group in inputs.values() for artifact in group]
    return sum(file["bytes"] for artifact in artifacts for file in artifact.manifest["files"]) + 50_000_000


def _manifest(
    node: Node, identity: Identity, entry: PlanEntry, inputs: dict[str, list[Artifact]], result: StageResult,
    started: float, peak_bytes: int,
) -> dict[str, Any]:  # fmt: skip
    return {
        "type": node.spec.produces,
        "stage": node.spec.name,
        "id": node.id,
        "key": identity.key,
        "identity": identity.as_dict(),
        "counts": {"in": result.rows_in, "out": result.rows_out, "unit": result.unit, "dropped": result.dropped},
        "metrics": result.metrics,
        "summary": result.summary,
        "waivers": result.waivers,
        "inputs": [
            {"type": artifact.type, "stage": artifact.stage_id, "digest": artifact.digest}
            for group in inputs.values()
            for artifact in group
        ],
        "config": identity_config(node.config),
        "libraries": identity.libraries,
        "why": [entry.status, *entry.why],
        "seconds": time.time() - started,
        "peak_memory_bytes": peak_bytes,
        "created": time.time(),
    }
