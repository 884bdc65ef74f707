"""Finished output folders → immutable artifacts addressed by content digest, found again by stage key.

Layout under MILL_HOME:

    artifacts/<digest>/        the files and manifest.json, which is written last
    keys/<stage>/<key>.json    the manifest of the build with this key: the pointer to its artifact
    work/<stage>-<key[:16]>/   a stage in progress: output/, done/, journal.jsonl, checkpoints
    lines/<name>.json          what the newest run of each recipe was and how its stages ended
"""

import fcntl
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from modelmill.services.identity import Identity
from modelmill.tasks.errors import InputError, RecipeError, ResourceError
from modelmill.tasks.files import (
    atomic_path,
    file_digest,
    inside,
    read_json,
    refuse_outward_links,
    remove_path,
    value_digest,
    write_json,
)
from modelmill.tasks.names import file_name
from modelmill.tasks.stage import EVIDENCE, Artifact

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Store:
    """Artifact store in one folder. Several processes may use it at once."""

    home: Path

    def find(self, stage: str, key: str) -> dict[str, Any] | None:
        """The manifest built under this key, or None when there is none or its artifact is gone."""
        pointer = inside(self.home, self.home / "keys" / stage / f"{key}.json")
        if not pointer.exists():
            return None
        manifest = read_json(pointer)
        return manifest if (self.artifact_path(manifest["digest"]) / MANIFEST).exists() else None

    def artifact_path(self, digest: str) -> Path:
        return inside(self.home, self.home / "artifacts" / digest)

    def artifact(self, manifest: dict[str, Any], stage_id: str) -> Artifact:
        """The artifact that a manifest describes, as the stage `stage_id` of a line.

        Raises:
            InputError: a link leads out of it.
        """
        path = self.artifact_path(manifest["digest"])
        refuse_outward_links(path)
        return Artifact(manifest["type"], path, manifest["digest"], stage_id, manifest)

    def builds(self, stage: str) -> list[dict[str, Any]]:
        """Manifests of all builds of a stage, newest first."""
        manifests = [read_json(path) for path in (self.home / "keys" / stage).glob("*.json")]
        return sorted(manifests, key=lambda manifest: manifest["created"], reverse=True)

    def workspace(self, stage: str, key: str) -> Path:
        return inside(self.home, self.home / "work" / f"{stage}-{key[:16]}")

    @contextmanager
    def locked_workspace(self, stage: str, key: str, waiting: Callable[[], None] = lambda: None) -> Iterator[Path]:
        """The workspace of a key, held by one process at a time; another one calls `waiting` and waits for its end."""
        workspace = self.workspace(stage, key)
        lock_path = self.home / "work" / f"{workspace.name}.lock"
        lock_path.parent.mkdir(parents=True, exist_ok=True)
        with lock_path.open("w") as lock:
            wait_for_lock(lock, waiting)
            (workspace / "output").mkdir(parents=True, exist_ok=True)
            yield workspace

    def publish(self, workspace: Path, manifest: dict[str, Any]) -> dict[str, Any]:
        """Turn `workspace/output` into an artifact and point its key at it; returns the completed manifest.

        `manifest` lacks `digest` and `files`. Killed at any point, the next run finds either the artifact behind its
        key, or the complete output with its manifest still in the workspace (`publish_complete`).

        Raises:
            InputError: the output holds no file outside the evidence folders.
        """
        output = inside(workspace, workspace / "output")
        refuse_outward_links(output)
        for leftover in list(output.rglob(".*.tmp")):
            remove_path(leftover)
        files = folder_files(output)
        content = [file for file in files if file["path"].split("/")[0] not in EVIDENCE]
        if not content:
            raise InputError(f"stage {manifest['id']} wrote no output files into {output}")
        digest = value_digest([[file["path"], file["sha256"]] for file in content])
        manifest = manifest | {"digest": digest, "files": files}
        write_json(output / MANIFEST, manifest)
        return self._place(workspace, manifest)

    def publish_complete(self, workspace: Path) -> dict[str, Any] | None:
        """Publish an output that was complete when its run was killed; None when it was not."""
        manifest_path = workspace / "output" / MANIFEST
        return self._place(workspace, read_json(manifest_path)) if manifest_path.exists() else None

    def _place(self, workspace: Path, manifest: dict[str, Any]) -> dict[str, Any]:
        """Move the output to its address. The same content that lies there already gives way to the newer evidence."""
        self.point(manifest)
        output, target = workspace / "output", self.artifact_path(manifest["digest"])
        target.parent.mkdir(parents=True, exist_ok=True)
        retired = self.home / "work" / f"retired-{manifest['digest'][:16]}-{time.time_ns()}"
        if target.exists():
            target.rename(retired)
        output.rename(target)
        remove_path(retired)
        remove_path(workspace)
        return manifest

    def point(self, manifest: dict[str, Any]) -> None:
        """Record that the manifest's key leads to its artifact."""
        write_json(self.home / "keys" / manifest["stage"] / f"{manifest['key']}.json", manifest)

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

    def verify(self, manifest: dict[str, Any]) -> list[str]:
        """Names of the artifact's files that are missing or whose bytes differ from the manifest."""
        folder = self.artifact_path(manifest["digest"])
        return [
            file["path"]
            for file in manifest["files"]
            if not (folder / file["path"]).is_file() or file_digest(folder / file["path"]) != file["sha256"]
        ]


def wait_for_lock(lock: TextIO, waiting: Callable[[], None] = lambda: None) -> None:
    """Take an exclusive lock that the kernel releases when its holder dies; call `waiting` if it is taken."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        waiting()
        fcntl.flock(lock, fcntl.LOCK_EX)


def folder_files(folder: Path) -> list[dict[str, Any]]:
    """Every file of a folder with its relative path, size and SHA-256, sorted by path; temporary files are left out."""
    return [
        {"path": file.relative_to(folder).as_posix(), "bytes": file.stat().st_size, "sha256": file_digest(file)}
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != MANIFEST and not file.name.endswith(".tmp")
    ]


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


def unreferenced(home: Path) -> list[tuple[Path, int, str]]:
    """What `mill gc` may remove: (path, bytes, reason), leaving everything that the newest runs of the lines use."""
    lines = [read_json(path) for path in sorted((home / "lines").glob("*.json"))]
    kept_keys = {stage.get("key") for line in lines for stage in line["stages"]}
    kept_digests = {stage.get("digest") for line in lines for stage in line["stages"]}
    for pointer in (home / "keys").glob("*/*.json"):
        if pointer.stem in kept_keys:  # artifacts of other lines that a stage was compared with, such as earlier crawls
            kept_digests.update(read_json(pointer)["identity"].get("external", {}).values())
    found: list[tuple[Path, int, str]] = []
    for artifact in sorted((home / "artifacts").glob("*")):
        if artifact.name not in kept_digests:
            found.append((artifact, folder_bytes(artifact), "artifact of no line's newest run"))
    for workspace in sorted(path for path in (home / "work").glob("*") if path.is_dir()):
        key = workspace.name.rpartition("-")[2]
        if not any(kept and kept.startswith(key) for kept in kept_keys):
            found.append((workspace, folder_bytes(workspace), "unfinished work that no line's newest run would resume"))
    return found


def folder_bytes(folder: Path) -> int:
    """Bytes of all files under a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def collect(home: Path) -> int:
    """Remove what `unreferenced` lists and the keys that lead nowhere; returns the bytes freed."""
    freed = 0
    for path, size, _ in unreferenced(home):
        remove_path(path)
        freed += size
    for pointer in (home / "keys").glob("*/*.json"):
        if not (home / "artifacts" / read_json(pointer)["digest"]).exists():
            pointer.unlink()
    return freed


def save_line(home: Path, name: str, record: dict[str, Any]) -> None:
    """Remember the newest run of a recipe, and that it was the newest of all."""
    write_json(line_file(home, name), record)
    with atomic_path(home / "latest") as temporary:
        temporary.write_text(name)


def line_file(home: Path, name: str) -> Path:
    """Where the newest run of a recipe is recorded. Raises RecipeError where the name cannot be a recipe's."""
    try:
        return inside(home, home / "lines" / f"{file_name(name)}.json")
    except ValueError as error:
        raise RecipeError(f"expected the name of a recipe that was run in this home: {error}") from error


def read_line(home: Path, name: str | None = None) -> dict[str, Any]:
    """The newest run of the named recipe, or of any.

    Raises:
        InputError: nothing was run in this home.
    """
    if name is None and (home / "latest").exists():
        name = (home / "latest").read_text()
    path = None if name is None else line_file(home, name)
    if path is None or not path.exists():
        what = f"recipe {name}" if name else "any recipe"
        raise InputError(f"no run of {what} is recorded under {home}. Start one with `mill run RECIPE`.")
    return read_json(path)
