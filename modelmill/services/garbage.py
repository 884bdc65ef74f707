"""A home → what `mill gc` may remove and what it keeps, each with its reason; and the removal.

Kept is what somebody may still need: the newest run and the newest complete run of each recipe with the newest build of
each of its stages, releases that an alias of MLflow's registry names, unfinished work that a run would continue or that
a process holds, whatever is young; and all that these were built from or compared with.
"""

import contextlib
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelmill.services.lines import newest_build
from modelmill.services.locks import lock_if_free
from modelmill.services.records import IdentityRecord, Manifest, Record, Run, UnreadableError, load_record
from modelmill.services.store import Store
from modelmill.tasks.errors import ContractError

TRASH, DAMAGED = "trash", "damaged"


@dataclass(frozen=True)
class Item:
    """A folder or file of a home, its size, and why it may go or stays."""

    path: Path
    bytes: int
    why: str


@dataclass
class Survey:
    """What a home holds: what nothing needs, and what something does."""

    removable: list[Item] = field(default_factory=list)
    kept: list[Item] = field(default_factory=list)


class _Home:
    """One reading of a home's records.

    Raises:
        ContractError: one of them cannot be read, so that what it refers to is unknown.
    """

    def __init__(self, home: Path, keep_seconds: float, aliased: dict[str, str]) -> None:
        self.home, self.store = home, Store(home)
        self.young_since = time.time() - keep_seconds
        read = (_required(path, Manifest) for path in sorted((home / "keys").glob("*/*.json")))
        self.manifests = [manifest for manifest in read if manifest]
        self.by_digest: dict[str, list[dict[str, Any]]] = {}
        for manifest in self.manifests:
            self.by_digest.setdefault(manifest["digest"], []).append(manifest)
        self.keys: dict[str, str] = {}
        self.digests: dict[str, str] = dict(aliased)
        self._from_runs()
        for manifest in self.manifests:
            if manifest["key"] in self.keys:
                self.digests.setdefault(manifest["digest"], self.keys[manifest["key"]])
        self._from_work()
        self._from_age()
        self._closure()

    def _from_runs(self) -> None:
        self._require_moved_records()
        newest, complete = self.home / "lines", self.home / "lines" / "complete"
        for folder, word in ((newest, "newest run"), (complete, "newest complete run")):
            for path in sorted(folder.glob("[!.]*.json")):
                record = _required(path, Run)
                for stage in [*record.get("stages", ()), *(record.get("former") or ())]:
                    why = f"stage {stage['id']} of the {word} of {record['name']}"
                    self._keep(stage.get("key"), stage.get("digest"), why)
                    for digest in stage.get("external") or ():
                        self._keep(None, digest, why)
                    if earlier := newest_build(stage, record["time"]):
                        self._keep(
                            earlier["key"], earlier["digest"], f"newest build of {stage['id']} of {record['name']}"
                        )

    def _require_moved_records(self) -> None:
        """What a damaged record of runs referred to is unknown until a run has written it anew."""
        for path in sorted((self.home / DAMAGED).glob("*--lines--*.json")):
            name = path.name.partition("--lines--")[2]
            record = self.home / "lines" / name.replace("complete--", "complete/", 1)
            if not record.exists():
                raise ContractError(
                    f"the record {path} of a recipe's runs was damaged, so which artifacts that recipe needs is "
                    "unknown and nothing was removed. Run the recipe again, which writes the record anew; or remove "
                    "that file, if its artifacts may go."
                )

    def _keep(self, key: str | None, digest: str | None, why: str) -> None:
        if key:
            self.keys.setdefault(key, why)
        if digest:
            self.digests.setdefault(digest, why)

    def _from_work(self) -> None:
        """What unfinished work was to be built from; it is not known before its process has said so."""
        self.work: dict[Path, str] = {}
        for workspace in sorted(path for path in (self.home / "work").glob("*") if path.is_dir()):
            why = self._reason_for_work(workspace)
            if why is None:
                continue
            self.work[workspace] = why
            identity = _required(workspace / "identity.json", IdentityRecord)
            needed = [digest for _, digest in identity.get("inputs", [])] + list(identity.get("external", {}).values())
            for digest in needed:
                self.digests.setdefault(digest, f"needed by unfinished work ({workspace.name})")

    def _reason_for_work(self, workspace: Path) -> str | None:
        short = workspace.name.rpartition("-")[2]
        if any(key.startswith(short) for key in self.keys):
            return "unfinished work that the next run continues"
        with lock_if_free(workspace.with_name(f"{workspace.name}.lock")) as free:
            if not free:
                return "a process works there"
        return "young" if newest_change(workspace) >= self.young_since else None

    def _from_age(self) -> None:
        for artifact in (self.home / "artifacts").glob("*"):
            created = [manifest["created"] for manifest in self.by_digest.get(artifact.name, [])]
            if max([artifact.stat().st_mtime, *created]) >= self.young_since:
                self.digests.setdefault(artifact.name, "young")

    def _closure(self) -> None:
        waiting = list(self.digests)
        while waiting:
            digest = waiting.pop()
            for manifest in self.by_digest.get(digest, []):
                needed = [given["digest"] for given in manifest["inputs"]]
                for other in needed + list(manifest["identity"]["external"].values()):
                    if other not in self.digests:
                        self.digests[other] = f"{manifest['id']} {digest[:12]} was built from it or compared with it"
                        waiting.append(other)


def survey(home: Path, keep_seconds: float, aliased: dict[str, str]) -> Survey:
    """What may go and what stays. `aliased` maps digests of releases to the alias that refers to them.

    Raises:
        ContractError: a record cannot be read, so that what it refers to is unknown.
    """
    with Store(home).locked():
        places = list(_places(_Home(home, keep_seconds, aliased)))
    found = Survey()
    for path, why, is_kept in places:
        (found.kept if is_kept else found.removable).append(Item(path, folder_bytes(path), why))
    return found


def _places(state: _Home) -> Iterator[tuple[Path, str, bool]]:
    """Every place that counts, the reason for its fate, and whether it is kept."""
    for artifact in sorted((state.home / "artifacts").glob("[0-9a-f]" * 64)):
        why = state.digests.get(artifact.name)
        yield artifact, why or "artifact that no recipe's run, alias or unfinished work needs", why is not None
    evidence = {manifest.get("evidence") for manifest in state.manifests if manifest["digest"] in state.digests}
    for folder in sorted((state.home / "evidence").glob("*")):
        young = folder.stat().st_mtime >= state.young_since
        kept = folder.name in evidence or young
        yield folder, f"evidence of an artifact that {'is kept' if kept else 'goes or is gone'}", kept
    for workspace in sorted(path for path in (state.home / "work").glob("*") if path.is_dir()):
        why = state.work.get(workspace)
        yield workspace, why or "unfinished work that no run would continue", why is not None
    for folder in sorted((state.home / DAMAGED).glob("*")):
        young = newest_change(folder) >= state.young_since or folder.stat().st_ctime >= state.young_since
        yield folder, "damaged, moved away by `mill verify --repair`", young
    for folder in sorted((state.home / TRASH).glob("*")):
        yield folder, "left by an interrupted `mill gc`", False


def collect(home: Path, approved: Survey, keep_seconds: float, aliased: dict[str, str]) -> int:
    """Remove what was approved and is still needed by nothing, and the keys that lead nowhere; returns the bytes freed.

    While others may neither publish nor take for reuse, the home is surveyed again and what goes is renamed into a
    trash folder; deleting that takes its time afterwards.
    """
    store, sizes = Store(home), {item.path: item.bytes for item in approved.removable}
    freed = 0
    trash = home / TRASH / secrets.token_hex(8)
    with store.locked(exclusive=True), ExitStack() as held:
        state = _Home(home, keep_seconds, aliased)
        for number, (path, _, is_kept) in enumerate(list(_places(state))):
            if is_kept or path not in sizes or not _is_free(path, held):
                continue
            freed += sizes[path]
            if path.parent.name != TRASH:
                trash.mkdir(parents=True, exist_ok=True)
                path.rename(trash / f"{number}-{path.name}")
        for manifest in state.manifests:
            if not store.artifact_path(manifest["digest"]).exists():
                store.key_file(manifest).unlink(missing_ok=True)
                for digest in (manifest["digest"], manifest.get("evidence") or manifest["key"]):
                    store.memory(digest).unlink(missing_ok=True)
        doomed = list((home / TRASH).glob("*"))
    for folder in doomed:
        shutil.rmtree(folder, ignore_errors=True)  # another `mill gc` may delete it too
    return freed


def digests_in_trash(home: Path) -> set[str]:
    """Artifacts that a `mill gc` was about to remove; one that was killed may have left their keys."""
    return {path.name.partition("-")[2] for path in (home / TRASH).glob("*/*")}


def _is_free(path: Path, held: ExitStack) -> bool:
    """Whether no process works in a workspace; its lock is then held, so that none begins."""
    return path.parent.name != "work" or held.enter_context(lock_if_free(path.with_name(f"{path.name}.lock")))


def _required(path: Path, shape: type[Record]) -> dict[str, Any]:
    try:
        return load_record(path, shape) or {}
    except UnreadableError as error:
        raise ContractError(
            f"{error}: what it refers to is unknown, so nothing was removed. `mill verify --repair` restores it or "
            "moves it away; then run this again."
        ) from error


def newest_change(folder: Path) -> float:
    """The newest time at which anything in a folder was written."""
    return max((info.st_mtime for info in _tree(folder)), default=0.0)


def folder_bytes(folder: Path) -> int:
    """Bytes of all files under a folder, or of a file."""
    return sum(info.st_size for info in _tree(folder) if not stat.S_ISDIR(info.st_mode))


def _tree(path: Path) -> Iterator[os.stat_result]:
    """The path and all below it, links not followed. What a running process removes meanwhile is not there."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        yield path.lstat()
        if path.is_dir() and not path.is_symlink():
            for inner in path.iterdir():
                yield from _tree(inner)
