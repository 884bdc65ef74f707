"""Bytes on disk: whole files or none, digests of files and folders."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modelmill.tasks.errors import ResourceError


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and renamed, on failure removed.

    Works for a file or a folder. A reader never sees half of it.

    Raises:
        ResourceError: the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    remove_path(temporary)
    try:
        yield temporary
        if temporary.is_file():
            sync_file(temporary)
        if path.is_dir():
            remove_path(path)
        temporary.replace(path)
    except OSError as error:
        remove_path(temporary)
        raise_if_disk_full(error, path)
        raise
    except BaseException:
        remove_path(temporary)
        raise


def raise_if_disk_full(error: BaseException, path: Path) -> None:
    """Turn ENOSPC and EDQUOT, also as the cause of another error, into a message that says where space is missing."""
    cause: BaseException | None = None if isinstance(error, ResourceError) else error
    while cause is not None and not (isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)):
        cause = cause.__cause__ or cause.__context__
    if cause is not None:
        free = shutil.disk_usage(existing_parent(path)).free
        raise ResourceError(
            f"no space left while writing {path} ({free / 1e6:.0f} MB free). "
            "Finished work is kept: free some space (`mill gc --dry-run` lists what may go), then run the same command."
        ) from error


def existing_parent(path: Path) -> Path:
    """The nearest folder at or above `path` that exists."""
    while not path.exists():
        path = path.parent
    return path


def sync_file(path: Path) -> None:
    """Flush a file's bytes to the disk, so that a power cut after the rename cannot empty it."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def remove_path(path: Path) -> None:
    """Remove a file, link or folder; nothing happens when it does not exist."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys (so equal values are equal bytes), whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Parse one JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def value_digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON (sorted keys, no spaces), hexadecimal."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
