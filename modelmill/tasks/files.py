"""Bytes on disk: whole files or none, digests of files and folders."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modelmill.tasks.errors import InputError, ResourceError

USER_UMASK = "MILL_USER_UMASK"
"""Environment variable: the umask of the shell, octal. Processes of Modelmill run under that of their home."""
_PRIVATE_UMASK = 0o077


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
        _share_with_group(temporary)
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


@contextlib.contextmanager
def named_output(path: Path) -> Iterator[Path]:
    """`atomic_path` for a file that a user named. Outside of the home it gets the permissions of the user's own umask.

    What is no regular file (a pipe, `/dev/stdout`) is yielded itself.

    Raises:
        InputError: the path is a folder.
        ResourceError: the disk is full.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file to write")
    if path.exists() and not path.is_file():
        try:
            yield path
        except OSError as error:
            raise_if_disk_full(error, path)
            raise
        return
    _make_parents(path.parent)
    with atomic_path(path) as temporary:
        yield temporary
        if temporary.is_file() and not _is_in_home(path):
            temporary.chmod(0o666 & ~_user_umask())


def write_output(path: Path, text: str) -> None:
    """Write a text file that a user named, see `named_output`."""
    with named_output(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _make_parents(folder: Path) -> None:
    if folder.exists():
        return
    _make_parents(folder.parent)
    folder.mkdir(exist_ok=True)
    if not _is_in_home(folder):
        folder.chmod(0o777 & ~_user_umask())


def _is_in_home(path: Path) -> bool:
    home = os.environ.get("MILL_HOME")
    return bool(home) and path.resolve().is_relative_to(home)


def _user_umask() -> int:
    return int(os.environ.get(USER_UMASK, f"{_umask():o}"), 8)


def _umask() -> int:
    """The umask of this process, read without changing it, as other threads write files."""
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return _PRIVATE_UMASK


def _share_with_group(path: Path) -> None:
    """Where a group shares the home, open what safetensors, tempfile and SQLite write for their owner alone."""
    umask = _umask()
    if umask == _PRIVATE_UMASK:
        return
    for file in [path] if path.is_file() else path.rglob("*"):
        mode = file.lstat().st_mode
        wanted = mode | 0o666 & ~umask
        if stat.S_ISREG(mode) and wanted != mode:
            file.chmod(stat.S_IMODE(wanted))


def inside(folder: Path, path: Path) -> Path:
    """The path itself, once no link leads it out of the folder. The folder may be a link.

    Raises:
        InputError: a link leads out of the folder.
    """
    real = path.resolve()
    if not real.is_relative_to(folder.resolve()):
        raise InputError(f"{path} is a link that leads out of {folder}, to {real}; remove that link")
    return path


def refuse_outward_links(folder: Path) -> None:
    """Check every link below a folder, see `inside`."""
    for path in folder.rglob("*"):
        if path.is_symlink():
            inside(folder, path)


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
