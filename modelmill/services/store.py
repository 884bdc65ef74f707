"""Finished output folders → immutable artifacts addressed by content digest, found again by stage key.

Layout under MILL_HOME:

    artifacts/<digest>/        content, the evidence of the first build that gave it, and that build's manifest.json
    evidence/<digest>/         evidence of a later build with the same content, where it differs
    keys/<stage>/<key>.json    the manifest of the build with this key: the pointer to its artifact and its evidence
    work/<stage>-<key[:16]>/   a stage in progress: output/, done/, journal.jsonl, checkpoints
    checked/<digest>.json      files that were found unchanged: inode, size and times of each
    lines/                     runs of recipes (`modelmill.services.lines`)

What was published is never moved or replaced while it is whole: others may be reading it.
"""

import fcntl
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelmill.services.identity import Identity
from modelmill.services.integrity import (
    MANIFEST,
    changed_files,
    content_of,
    evidence_of,
    files_digest,
    folder_files,
    remember_files,
)
from modelmill.services.locks import locked_file, open_lock
from modelmill.services.records import Manifest, read_record
from modelmill.tasks.errors import ContractError, InputError, ResourceError
from modelmill.tasks.files import inside, refuse_outward_links, remove_path, write_json
from modelmill.tasks.stage import Artifact


@dataclass(frozen=True)
class Store:
    """Artifact store in one folder. Several processes may use it at once."""

    home: Path

    def find(self, stage: str, key: str) -> dict[str, Any] | None:
        """The manifest built under this key, or None when there is none that can be read or its artifact is gone."""
        manifest = read_record(inside(self.home, self.home / "keys" / stage / f"{key}.json"), Manifest)
        return manifest if manifest and (self.artifact_path(manifest["digest"]) / MANIFEST).exists() else None

    def artifact_path(self, digest: str) -> Path:
        return inside(self.home, self.home / "artifacts" / digest)

    def evidence_path(self, manifest: dict[str, Any]) -> Path:
        """The folder with dropped/, warc/, report/ and scores/ of the build that a manifest describes."""
        own = inside(self.home, self.home / "evidence" / (manifest.get("evidence") or "none"))
        return own if own.is_dir() else self.artifact_path(manifest["digest"])

    def artifact(self, manifest: dict[str, Any], stage_id: str) -> Artifact:
        """The artifact that a manifest describes, as the stage `stage_id` of a line.

        Raises:
            InputError: a link leads out of it.
        """
        path = self.artifact_path(manifest["digest"])
        refuse_outward_links(path)
        return Artifact(manifest["type"], path, manifest["digest"], stage_id, manifest)

    def builds(self, stage: str) -> list[dict[str, Any]]:
        """Manifests of all builds of a stage that can be read, newest first."""
        found = [read_record(path, Manifest) for path in (self.home / "keys" / stage).glob("*.json")]
        return sorted((manifest for manifest in found if manifest), key=lambda one: one["created"], reverse=True)

    def workspace(self, stage: str, key: str) -> Path:
        return inside(self.home, self.home / "work" / f"{stage}-{key[:16]}")

    @contextmanager
    def locked_workspace(self, stage: str, key: str, waiting: Callable[[], None] = lambda: None) -> Iterator[Path]:
        """The workspace of a key, held by one process at a time; another one calls `waiting` and waits for its end."""
        workspace = self.workspace(stage, key)
        with locked_file(workspace.with_name(f"{workspace.name}.lock"), waiting):
            (workspace / "output").mkdir(parents=True, exist_ok=True)
            yield workspace

    @contextmanager
    def locked(self, *, exclusive: bool = False) -> Iterator[None]:
        """Nothing is published or collected while this is held; `exclusive`: nothing is taken for reuse either.

        To be held for moments: others wait.
        """
        with open_lock(self.home / "locks" / "store.lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
            yield

    def publish(self, workspace: Path, manifest: dict[str, Any]) -> dict[str, Any]:
        """Turn `workspace/output` into an artifact and point its key at it; returns the completed manifest.

        `manifest` lacks `digest`, `evidence` and `files`. Killed at any point, the next run finds either the artifact
        behind its key, or the complete output with its manifest still in the workspace (`publish_complete`).

        Raises:
            InputError: the output holds no file outside the evidence folders.
        """
        output = inside(workspace, workspace / "output")
        refuse_outward_links(output)
        for leftover in list(output.rglob(".*.tmp")):
            remove_path(leftover)
        files = folder_files(output)
        if not content_of(files):
            raise InputError(f"stage {manifest['id']} wrote no output files into {output}")
        digests = {"digest": files_digest(content_of(files)), "evidence": files_digest(evidence_of(files))}
        manifest = manifest | digests | {"files": files}
        write_json(output / MANIFEST, manifest)
        return self._place(workspace, manifest)

    def publish_complete(self, workspace: Path) -> dict[str, Any] | None:
        """Publish an output that was complete when its run was killed; None when it was not."""
        manifest = read_record(workspace / "output" / MANIFEST, Manifest)
        return self._place(workspace, manifest) if manifest else None

    def _place(self, workspace: Path, manifest: dict[str, Any]) -> dict[str, Any]:
        """Move the output to its address. The same content that lies there already stays."""
        output, target = workspace / "output", self.artifact_path(manifest["digest"])
        if target.exists():
            self.damage(manifest)  # what has to be read for it is read before others wait
        with self.locked(exclusive=True):
            if target.exists():
                self._repair(output, manifest)
                self._keep_evidence(output, manifest)
                self.point(manifest)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                self.point(manifest)
                output.rename(target)
                remember_files(target, content_of(manifest["files"]), self.memory(manifest["digest"]))
        remove_path(workspace)
        return manifest

    def _repair(self, output: Path, manifest: dict[str, Any]) -> None:
        """Replace those files of an existing artifact that are missing or damaged, each at once."""
        target, content = self.artifact_path(manifest["digest"]), content_of(manifest["files"])
        _replace(output, target, self.damage(manifest))
        if read_record(target / MANIFEST, Manifest) is None:
            write_json(target / MANIFEST, manifest)
        remember_files(target, content, self.memory(manifest["digest"]))

    def _keep_evidence(self, output: Path, manifest: dict[str, Any]) -> None:
        """Give a build's evidence a folder of its own, unless the artifact or another build has the same."""
        files, digest = evidence_of(manifest["files"]), manifest["evidence"]
        own, artifact = self.home / "evidence" / digest, self.artifact_path(manifest["digest"])
        first = read_record(artifact / MANIFEST, Manifest)
        is_firsts = first is not None and files_digest(evidence_of(first["files"])) == digest
        if own.is_dir() or is_firsts:
            holder = own if own.is_dir() else artifact
            _replace(output, holder, changed_files(holder, files, self.memory(digest)))
            return
        staged = output.with_name("evidence")
        staged.mkdir(exist_ok=True)  # may hold parts that were moved before a kill
        for part in sorted({file["path"].split("/")[0] for file in files}):
            if (output / part).exists():
                (output / part).rename(staged / part)
        own.parent.mkdir(parents=True, exist_ok=True)
        staged.rename(own)

    def point(self, manifest: dict[str, Any]) -> None:
        """Record that the manifest's key leads to its artifact."""
        write_json(self.key_file(manifest), manifest)

    def key_file(self, manifest: dict[str, Any]) -> Path:
        """The record that leads from a manifest's key to its artifact."""
        return self.home / "keys" / manifest["stage"] / f"{manifest['key']}.json"

    def accept(self, manifest: dict[str, Any], identity: Identity, why: str) -> dict[str, Any]:
        """Declare that code as it is now gives the artifact of `manifest`; recorded under the new key."""
        accepted = manifest | {
            "key": identity.key,
            "identity": identity.as_dict(),
            "accepted": {"why": why, "from_key": manifest["key"], "at": time.time()},
            "created": time.time(),
        }
        self.point(accepted)
        return accepted

    def memory(self, digest: str) -> Path:
        """Where it is remembered which files of an artifact were found unchanged."""
        return self.home / "checked" / f"{digest}.json"

    def damage(self, manifest: dict[str, Any], *, trust_unknown: bool = False) -> list[str]:
        """Content files of a manifest's artifact that are missing or changed; see `changed_files`."""
        folder, files = self.artifact_path(manifest["digest"]), content_of(manifest["files"])
        return changed_files(folder, files, self.memory(manifest["digest"]), trust_unknown=trust_unknown)

    def require_whole(
        self, manifest: dict[str, Any], stage_id: str, *, trust_unknown: bool = False, evidence: bool = False
    ) -> None:
        """Refuse an artifact whose files are not what they were when it was made; with `evidence` the build's too.

        Raises:
            ContractError: a file is missing or changed.
        """
        folder, damaged = self.artifact_path(manifest["digest"]), self.damage(manifest, trust_unknown=trust_unknown)
        if evidence and not damaged:
            folder, damaged = self.evidence_path(manifest), self._damaged_evidence(manifest, trust_unknown)
        if damaged:
            more = f" and {len(damaged) - 1} more files" if len(damaged) > 1 else ""
            raise ContractError(
                f"{folder / damaged[0]}{more} of stage {stage_id} changed after it was made (size or digest differ "
                f"from the manifest, or it is gone). `mill rerun {stage_id}` builds the stage anew in place; "
                "`mill verify` checks all others."
            )

    def _damaged_evidence(self, manifest: dict[str, Any], trust_unknown: bool = False) -> list[str]:
        """Changed files of a build's evidence. Parts that were removed whole are no damage: evidence may be pruned."""
        if "evidence" not in manifest:  # of a home in which a newer build's evidence replaced an older one's
            return []
        folder = self.evidence_path(manifest)
        files = [file for file in evidence_of(manifest["files"]) if (folder / file["path"].split("/")[0]).is_dir()]
        return changed_files(folder, files, self.memory(manifest["evidence"]), trust_unknown=trust_unknown)

    def whole_part(self, manifest: dict[str, Any], part: str) -> Path | None:
        """A part of a build's evidence that a later build may take over; None if it is missing or damaged."""
        folder = self.evidence_path(manifest)
        files = [file for file in evidence_of(manifest["files"]) if file["path"].startswith(f"{part}/")]
        memory = self.memory(manifest.get("evidence", manifest["key"]))
        return folder / part if files and not changed_files(folder, files, memory) else None


def _replace(source: Path, target: Path, names: list[str]) -> None:
    for name in names:
        if (source / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).replace(target / name)


def read_artifact_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest inside an artifact: that of the first build that gave it."""
    return read_record(folder / MANIFEST, Manifest)


def require_free_space(home: Path, needed: int) -> None:
    """Fail before a stage starts rather than in its middle.

    Raises:
        ResourceError: fewer than `needed` bytes are free under `home`.
    """
    home.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(home).free
    if free < needed:
        raise ResourceError(
            f"{free / 1e6:,.0f} MB are free under {home}, and this stage is expected to need {needed / 1e6:,.0f} MB. "
            "Free some space (`mill gc --dry-run` lists what may go) or set MILL_HOME to a larger disk."
        )
