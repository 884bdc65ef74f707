"""Files as locks that the kernel releases when their holder dies; the file of most goes with its last holder."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from modelmill.tasks.files import raise_if_disk_full


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock that the kernel releases when its holder dies; wait while another holds it. Its file stays."""
    with open_lock(path) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def locked_file(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a lock that the kernel releases when its holder dies, and remove its file in the end.

    `waiting` is called if it is taken.
    """
    while True:
        with open_lock(path) as lock:
            _wait_for_lock(lock, waiting)
            if _is_file_of(lock, path):  # else its last holder removed it meanwhile
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
                return


@contextmanager
def lock_if_free(path: Path) -> Iterator[bool]:
    """Hold such a lock if nobody does; False if somebody does."""
    with open_lock(path) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        try:
            yield _is_file_of(lock, path)
        finally:
            if _is_file_of(lock, path):
                path.unlink()


def open_lock(path: Path) -> TextIO:
    """The file of a lock, made if it is not there. Raises ResourceError when the disk is full."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a")
    except OSError as error:
        raise_if_disk_full(error, path)
        raise


def _is_file_of(lock: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _wait_for_lock(lock: TextIO, waiting: Callable[[], None] = lambda: None) -> None:
    """Take an exclusive lock that the kernel releases when its holder dies; call `waiting` if it is taken."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        waiting()
        fcntl.flock(lock, fcntl.LOCK_EX)
