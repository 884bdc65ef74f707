"""A home → what is not as it was written: contents, evidence, manifests, keys, records; each with its repair."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from modelmill.services.databases import database_damage
from modelmill.services.garbage import DAMAGED, digests_in_trash
from modelmill.services.home import FORMAT, MARKER, is_marker
from modelmill.services.integrity import (
    MANIFEST,
    content_of,
    evidence_of,
    file_digests,
    files_below,
    files_digest,
    folder_files,
    is_evidence,
)
from modelmill.services.records import IdentityRecord, Manifest, Record, Run, StackRecord, UnreadableError, load_record
from modelmill.services.store import Store
from modelmill.tasks.files import value_digest, write_json

_OF_DATABASES = (
    "restore it from a backup, or move it away: the next run makes a new one (artifacts do not need it; aliases of "
    "releases are lost)"
)
# What the manifest in an artifact and the record of its key say alike, whichever build wrote them.
_SAME = ("type", "stage", "key", "digest", "identity")


@dataclass(frozen=True)
class Finding:
    """Something damaged: where, what is wrong, the stage it belongs to, and what a repair does."""

    path: Path
    problem: str
    remedy: str
    stage: str | None = None
    repair: Callable[[], None] | None = field(default=None, repr=False, compare=False)
    """None: a person has to do it."""

    def as_dict(self) -> dict[str, Any]:
        return {"path": str(self.path), "stage": self.stage, "problem": self.problem, "remedy": self.remedy}


class Verification:
    """One pass over a home; `digests` limits the artifacts whose bytes are read (None: all of them)."""

    def __init__(self, home: Path, digests: set[str] | None = None) -> None:
        self._home, self._store, self._digests = home, Store(home), digests
        self._keys: dict[str, list[dict[str, Any]]] = {}
        self.num_artifacts = self.num_bytes = self.num_unread = 0

    def findings(self) -> Iterator[Finding]:
        """All that is damaged, records first."""
        yield from self._marker()
        for path in (self._home / "mlflow.db", self._home / "prefect" / "prefect.db"):
            if (problem := database_damage(path)) is not None:
                yield Finding(path, problem, _OF_DATABASES)
        try:
            load_record(self._home / "stack" / "stack.json", StackRecord)
        except UnreadableError as error:
            yield Finding(self._home / "stack" / "stack.json", str(error), "`mill down` ends what it was about")
        yield from self._key_records()
        yield from self._lost_artifacts()
        for path in sorted([*(self._home / "lines").glob("[!.]*.json"), *(self._home / "lines").glob("*/[!.]*.json")]):
            yield from self._record(path, Run)
        for path in sorted((self._home / "work").glob("*/identity.json")):
            yield from self._record(path, IdentityRecord, path.parent)
        for artifact in sorted((self._home / "artifacts").glob("*")):
            if self._digests is None or artifact.name in self._digests:
                yield from _undisturbed(artifact, self._artifact)
            else:
                self.num_unread += 1
        for folder in sorted((self._home / "evidence").glob("*")):
            if self._digests is None or folder.name in self._evidence_of_digests():
                yield from _undisturbed(folder, self._evidence_folder)

    def _key_records(self) -> Iterator[Finding]:
        for path in sorted((self._home / "keys").glob("*/[!.]*.json")):
            try:
                manifest = load_record(path, Manifest)
            except UnreadableError as error:
                yield self._bad_key(path, str(error))
                continue
            if manifest is None:
                continue
            if problem := _contradiction(manifest, path):
                yield self._bad_key(path, problem)
            else:
                self._keys.setdefault(manifest["digest"], []).append(manifest)

    def _marker(self) -> Iterator[Finding]:
        path = self._home / MARKER
        if path.exists() and not is_marker(path):
            repair = partial(write_json, path, {"format": FORMAT})
            yield Finding(path, "it names no format", "written anew", None, repair)

    def _lost_artifacts(self) -> Iterator[Finding]:
        """Keys that lead nowhere, though no run is about to publish what they lead to."""
        with self._store.locked():  # `mill gc` removes an artifact and its keys together, unless it is killed meanwhile
            collected = digests_in_trash(self._home)
            lost = [
                (self._store.key_file(manifest), manifest)
                for digest, manifests in self._keys.items()
                for manifest in manifests
                if (self._digests is None or digest in self._digests)
                and not self._store.artifact_path(digest).exists()
                and digest not in collected
                and self._store.key_file(manifest).exists()
                and not (self._store.workspace(manifest["stage"], manifest["key"]) / "output" / MANIFEST).exists()
            ]
        for path, manifest in lost:
            problem = f"its artifact {self._store.artifact_path(manifest['digest'])} is gone"
            remedy = f"moved away; the next run builds {manifest['id']} anew"
            yield Finding(path, problem, remedy, manifest["id"], self._moving_away(path))

    def _bad_key(self, path: Path, problem: str) -> Finding:
        for artifact in (self._home / "artifacts").glob("*"):
            manifest = _readable(artifact / MANIFEST)
            if manifest and manifest["key"] == path.stem and not _contradiction(manifest, path):
                remedy = "rewritten from the manifest of its artifact"
                self._keys.setdefault(manifest["digest"], []).append(manifest)
                return Finding(path, problem, remedy, path.parent.name, partial(write_json, path, manifest))
        remedy = "moved away; the next run of its stage builds anew"
        return Finding(path, problem, remedy, path.parent.name, self._moving_away(path))

    def _record(self, path: Path, shape: type[Record], concerned: Path | None = None) -> Iterator[Finding]:
        try:
            load_record(path, shape)
        except UnreadableError as error:
            remedy = "moved away; the next run writes it anew"
            yield Finding(path, str(error), remedy, None, self._moving_away(concerned or path))

    def _artifact(self, artifact: Path) -> Iterator[Finding]:
        own, builds = _readable(artifact / MANIFEST), self._keys.get(artifact.name, [])
        manifest = min(builds, key=lambda build: build["created"]) if builds else own
        if manifest is None or files_digest(content_of(manifest["files"])) != artifact.name:
            problem = "its manifest cannot be read and no key leads to it"
            yield Finding(artifact, problem, "moved away", None, self._moving_away(artifact))
            return
        self.num_artifacts += 1
        stage = manifest["id"]
        problems = self._differences(artifact, content_of(manifest["files"]), is_evidence, inside=False)
        if problems:
            remedy = f"moved away; the next run builds {stage} anew"
            keys = [self._store.key_file(build) for build in builds]
            yield Finding(artifact, problems, remedy, stage, self._moving_away(artifact, *keys))
            return
        if own is None or own["digest"] != artifact.name or not _agrees(own, builds):
            problem = "its manifest.json is damaged or is not what its key says"
            remedy = "manifest.json is written anew from the record of its key"
            yield Finding(artifact, problem, remedy, stage, partial(write_json, artifact / MANIFEST, manifest))
            return
        key_file = self._store.key_file(own)
        if not key_file.exists() and _contradiction(own, key_file) is None:
            remedy = "written anew from the manifest of its artifact"
            yield Finding(key_file, "it is gone", remedy, stage, partial(write_json, key_file, own))
        for part in sorted({file["path"].split("/")[0] for file in evidence_of(own["files"])}):
            # A part that was removed as a whole is no damage: evidence may be pruned.
            if (artifact / part).is_dir():
                listed = [file for file in own["files"] if file["path"].startswith(f"{part}/")]
                if problems := self._differences(artifact, listed, lambda path, p=part: path.split("/")[0] == p):
                    remedy = f"{part}/ is moved away; `mill rerun {stage}` makes it again"
                    yield Finding(artifact / part, problems, remedy, stage, self._moving_away(artifact / part))

    def _differences(
        self, folder: Path, files: list[dict[str, Any]], belongs: Callable[[str], bool], inside: bool = True
    ) -> str:
        """Missing, changed and extra files in words; only files for which `belongs` is `inside` are looked at."""
        found = {path.relative_to(folder).as_posix(): path for path in files_below(folder)}
        found = {name: path for name, path in found.items() if belongs(name) == inside}
        listed = {file["path"]: file for file in files}
        words = [f"{name} is missing" for name in sorted(listed.keys() - found.keys())]
        for name in sorted(listed.keys() & found.keys()):
            self.num_bytes += found[name].stat().st_size
            if file_digests(found[name])["sha256"] != listed[name]["sha256"]:
                words.append(f"{name} differs from its manifest")
        words += [f"{name} is no file of it" for name in sorted(found.keys() - listed.keys())]
        more = f" and {len(words) - 3} more" if len(words) > 3 else ""
        return ", ".join(words[:3]) + more

    def _evidence_of_digests(self) -> set[str]:
        builds = [build for digest in self._digests or () for build in self._keys.get(digest, [])]
        return {build.get("evidence") or "" for build in builds}

    def _evidence_folder(self, folder: Path) -> Iterator[Finding]:
        files = folder_files(folder)
        self.num_bytes += sum(file["bytes"] for file in files)
        if files_digest(files) != folder.name:
            remedy = "moved away; a rerun of its stage makes it again"
            yield Finding(folder, "files differ from what they were", remedy, None, self._moving_away(folder))

    def _moving_away(self, *paths: Path) -> Callable[[], None]:
        return partial(self._move_away, [(path, _inode(path)) for path in paths])

    def _move_away(self, found: list[tuple[Path, int | None]]) -> None:
        """Move what was found damaged, unless it was collected or replaced by something new since then."""
        (self._home / DAMAGED).mkdir(parents=True, exist_ok=True)
        with self._store.locked(exclusive=True):
            for path, inode in found:
                if inode is not None and _inode(path) == inode:
                    name = path.relative_to(self._home).as_posix().replace("/", "--")
                    path.rename(self._home / DAMAGED / f"{time.time_ns()}--{name}")


def _undisturbed(folder: Path, look: Callable[[Path], Iterator[Finding]]) -> Iterator[Finding]:
    """What is found in a folder, unless `mill gc` collected it while it was read; it may have been made anew since."""
    inode = _inode(folder)
    try:
        found = list(look(folder))
    except FileNotFoundError:
        if _inode(folder) == inode:
            raise
        return
    if _inode(folder) == inode:
        yield from found


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def _readable(path: Path) -> dict[str, Any] | None:
    try:
        return load_record(path, Manifest)
    except UnreadableError:
        return None


def _contradiction(manifest: dict[str, Any], path: Path) -> str | None:
    """What in the record of a key cannot be: keys are digests of identities, names of artifacts digests of contents."""
    if manifest["key"] != path.stem or value_digest(manifest["identity"]) != path.stem:
        return f"{path} is damaged (its identity gives another key)"
    if files_digest(content_of(manifest["files"])) != manifest["digest"]:
        return f"{path} is damaged (its list of files gives another digest)"
    return None


def _agrees(own: dict[str, Any], builds: list[dict[str, Any]]) -> bool:
    """Whether the manifest in an artifact says what its key says; a key that was collected says nothing."""
    named = [build for build in builds if build["key"] == own["key"]]
    content = files_digest(content_of(own["files"]))
    return content == own["digest"] and all(
        all(own[name] == build[name] for name in _SAME) and content == build["digest"] for build in named
    )
