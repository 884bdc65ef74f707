"""What a command raises → one sentence on stderr and an exit code; only a fault of Modelmill keeps its traceback."""

import contextlib
import errno
import os
import re
import select
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from modelmill.tasks.errors import MillError, ResourceError
from modelmill.tasks.files import raise_if_disk_full

INTERRUPTED = 130  # the exit code of a command that Ctrl-C ended, as of a shell's
OUTPUT_CLOSED = 141  # the same of one whose reader has gone, as in `mill show | head -1`
# Of a path that a user chose; without a path the same numbers are a fault of ours.
_ABOUT_PATHS = {
    errno.EROFS: "its disk is read-only",
    errno.EACCES: "you have no permission",
    errno.EPERM: "you have no permission",
    errno.ENOTDIR: "a part of the path is a file",
    errno.EISDIR: "it is a folder, not a file",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "its links lead in a circle",
}
_FULL = (
    "no space is left where this command writes: its standard output, or a disk under {home}. Free some space, then "
    "run the same command."
)
_TEMPORARY = re.compile(r"\.(.+)\.\d+\.tmp")  # of `atomic_path`
_ABOUT_MACHINES = (errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EFBIG)
_OF_SQLITE = {
    "disk is full": "its disk is full",
    "readonly database": "it cannot be written",
    "unable to open database": "it cannot be opened",
    "disk i/o error": "its disk has an error, or is full",
}


def exit_code(command: Callable[[], Any], errors: Console) -> int:
    """Run a command and say on stderr how it ended, unless it ended well.

    Raises:
        Exception: a fault of Modelmill, which a traceback helps to find.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it stops a command as Ctrl-C does
    try:
        code = command()  # of a typer.Exit or of Ctrl-C, which typer does not raise
        if sys.stdout is not None:
            sys.stdout.flush()
        code = int(code or 0)
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except SystemExit:  # so rich and typer end when nobody reads what they print
        code = OUTPUT_CLOSED
    except Exception as error:
        told = _told(error, errors)
        if told is None:
            raise
        code = told
    if _output_is_closed() or not _output_takes_the_rest():
        _drop_output()
    if code == INTERRUPTED:
        errors.print("stopped; run the same command again to continue")
    return code


def _told(error: Exception, errors: Console) -> int | None:
    """The exit code of an error that was said on stderr; None for a fault of Modelmill."""
    if _output_is_closed() and isinstance(error, OSError):
        return OUTPUT_CLOSED
    usage: Any = error  # a usage error of the library under typer, which has no public name
    if hasattr(usage, "exit_code") and hasattr(usage, "show"):
        usage.show()
        return usage.exit_code
    known = as_mill_error(error)
    if known is None:
        return None
    with contextlib.suppress(OSError):
        errors.print(Text.assemble(("mill:", "bold red"), f" {type(known).__name__}: {known}"), soft_wrap=True)
    return known.exit_code


def as_mill_error(error: BaseException) -> MillError | None:
    """The sentence for an error that a user or an administrator can act on; None for a fault of Modelmill."""
    if isinstance(error, MillError):
        return error
    path = _path(error)
    try:
        raise_if_disk_full(error, Path(path or os.environ.get("MILL_HOME", "/")))
    except ResourceError as full:
        return full if path else ResourceError(_FULL.format(home=os.environ.get("MILL_HOME")))
    for cause in _causes(error):
        reason = next((why for text, why in _OF_SQLITE.items() if text in str(cause).lower()), None)
        if isinstance(cause, sqlite3.Error) and reason:
            home = os.environ.get("MILL_HOME", "the home")
            return ResourceError(
                f"a database in {home} cannot be used: {reason} ({cause}). Free some space or permit writing, then run "
                "the same command; or set MILL_HOME to another disk."
            )
    if isinstance(error, MemoryError):
        return ResourceError("no memory is left; use fewer workers, smaller inputs, or a larger machine")
    if not isinstance(error, OSError):
        return None
    if path and (reason := _ABOUT_PATHS.get(error.errno or 0)):
        return ResourceError(f"{path} cannot be used: {reason}. Give another path, or set MILL_HOME to another folder.")
    if error.errno in _ABOUT_MACHINES:
        return ResourceError(f"{path or 'this machine'}: {os.strerror(error.errno)}")
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _path(error: BaseException) -> str | None:
    name = getattr(error, "filename2", None) or getattr(error, "filename", None)
    if not isinstance(name, str | bytes) or not name:
        return None
    path = Path(os.fsdecode(name))
    return str(path.parent / _TEMPORARY.sub(r"\1", path.name))


def _output_is_closed() -> bool:
    """Whether whoever read the standard output has gone."""
    poll = select.poll()
    poll.register(1, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _output_takes_the_rest() -> bool:
    """Whether what is still buffered can be written; otherwise the interpreter would end with a code of its own."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        return False
    return True


def _drop_output() -> None:
    """Let what is still buffered go nowhere, or the interpreter complains as it ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
