"""Files of a folder → their digests, and which of them are no longer what a manifest says."""

import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import xxhash

from modelmill.services.records import Record, read_record
from modelmill.tasks.errors import MillError
from modelmill.tasks.files import value_digest, write_json
from modelmill.tasks.stage import EVIDENCE

MANIFEST = "manifest.json"
_BLOCK = 1 << 20


def file_digests(path: Path) -> dict[str, str]:
    """SHA-256, which names content, and XXH3 (128 bits), which finds damage at the speed of the disk; one reading."""
    exact, fast = hashlib.sha256(), xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            exact.update(block)
            fast.update(block)
    return {"sha256": exact.hexdigest(), "xxh3": fast.hexdigest()}


def folder_files(folder: Path) -> list[dict[str, Any]]:
    """Every file of a folder with its relative path, size and digests, sorted by path; temporary files are left out."""
    return [
        {"path": file.relative_to(folder).as_posix(), "bytes": file.stat().st_size} | file_digests(file)
        for file in files_below(folder)
    ]


def files_below(folder: Path) -> list[Path]:
    """The files that belong to an artifact, sorted by path."""
    return [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != MANIFEST and not file.name.endswith(".tmp")
    ]


def is_evidence(path: str) -> bool:
    """Whether a file of an artifact documents how it was made, rather than being its content."""
    return path.split("/")[0] in EVIDENCE


def content_of(files: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The files that the digest of an artifact is made from."""
    return [file for file in files if not is_evidence(file["path"])]


def evidence_of(files: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The files that document how an artifact was made."""
    return [file for file in files if is_evidence(file["path"])]


def files_digest(files: Sequence[dict[str, Any]]) -> str:
    """The digest that names a set of files."""
    return value_digest([[file["path"], file["sha256"]] for file in files])


def changed_files(
    folder: Path, files: Sequence[dict[str, Any]], memory: Path, *, trust_unknown: bool = False
) -> list[str]:
    """Paths of the files that are missing or differ from their entries.

    A file is read when `memory` does not know it as it is now (inode, size, times): so once, and after each change.
    With `trust_unknown` of a file that was never checked only the size counts.
    """
    known = read_record(memory, Record) or {}
    seen: dict[str, Any] = {}
    changed: list[str] = []
    for file in files:
        path, name = folder / file["path"], file["path"]
        mark = _mark(path)
        if mark is None or mark[1] != file["bytes"]:
            changed.append(name)
        elif known.get(name) == mark or (trust_unknown and name not in known):
            continue
        elif is_unchanged(path, file):
            seen[name] = mark
        else:
            changed.append(name)
    if seen:
        _remember(memory, known | seen)
    return changed


def is_unchanged(path: Path, file: dict[str, Any]) -> bool:
    """Whether a file has the fast digest of its entry; entries made before there was one have SHA-256 alone."""
    found = _fast_digest(path) if "xxh3" in file else file_digests(path)["sha256"]
    return found == file.get("xxh3", file["sha256"])


def remember_files(folder: Path, files: Sequence[dict[str, Any]], memory: Path) -> None:
    """Know the files of a folder as they are now: they have just been digested."""
    known = read_record(memory, Record) or {}
    _remember(memory, known | {file["path"]: _mark(folder / file["path"]) for file in files})


def _fast_digest(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _mark(path: Path) -> list[int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _remember(memory: Path, marks: dict[str, Any]) -> None:
    # What cannot be remembered (a full disk, a home that may only be read) is checked again.
    with contextlib.suppress(OSError, MillError):
        write_json(memory, marks)
