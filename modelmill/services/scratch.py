"""A home → its private temporary folder, where each command keeps what must not outlive it, and the end of what killed
commands left there.

The folder is `/tmp/mill-UID-HASH`, short because the path of a socket has at most 107 bytes. In it each command has its
own, held by a file lock that the kernel releases when the command dies. Its path is in the environment of every process
that the command starts: by it they are found and ended.
"""

import contextlib
import fcntl
import functools
import hashlib
import multiprocessing.process
import multiprocessing.util
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from modelmill.services.processes import COMMAND, end_all, end_holders
from modelmill.tasks.errors import ResourceError
from modelmill.tasks.files import remove_path

_ROOT = Path("/tmp")
_STACK = "stack"
_LOCK, _ELSEWHERE = "lock", "elsewhere"


def scratch_folder(home: Path) -> Path:
    """The temporary folder of a home, for this user alone; made if need be.

    Raises:
        ResourceError: its place is taken by a file, a link or another user's folder.
    """
    name = hashlib.sha256(str(home.resolve()).encode()).hexdigest()[:12]
    folder = _ROOT / f"mill-{os.geteuid()}-{name}"
    try:
        found = _made(folder)
    except OSError as error:
        raise ResourceError(
            f"cannot make the temporary folder {folder} ({error.strerror}); every command needs it, so let this user "
            f"write to {_ROOT}, or free space there"
        ) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise ResourceError(
            f"{folder} is not a folder of this user, so another user may read or change what is put there. Remove it, "
            "or choose another home (MILL_HOME), which has another temporary folder."
        )
    if stat.S_IMODE(found.st_mode) != 0o700:
        folder.chmod(0o700)
    return folder


def _made(folder: Path) -> os.stat_result:
    while True:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        with contextlib.suppress(FileNotFoundError):  # another command has just removed it
            return folder.lstat()


def stack_folder(home: Path) -> Path:
    """Where the processes of `mill up` keep their sockets."""
    with _locked(home) as scratch:
        (scratch / _STACK).mkdir(mode=0o700, exist_ok=True)
    return scratch / _STACK


def stack_temporary_folder(home: Path) -> Path:
    """Where the processes of `mill up` keep their temporary files."""
    return _temporary_folder(stack_folder(home))


def remove_stack_folder(home: Path) -> None:
    """Remove what the processes of `mill up` left; none of them runs."""
    with _locked(home) as scratch:
        _remove(scratch / _STACK)
        _remove_if_empty(scratch)


def own_folder(home: Path) -> Path:
    """This process's own folder in that of the home. It is removed, with what is in it, when the process ends.

    The first call of a process also ends and removes what killed commands of this home and user left.
    """
    return _own_folder(home.resolve(), os.getpid())


def keep_temporary_files(home: Path) -> None:
    """Have `tempfile`, here and in children, use a folder that is removed when this process ends.

    It is in the own folder, or where TMPDIR says: large temporary files go where the user has room for them.
    """
    if not os.access(home, os.W_OK):  # a home on a read-only disk can be looked at
        return
    own = own_folder(home)
    os.environ["TMPDIR"] = tempfile.tempdir = str(_temporary_folder(own))
    # Semaphores of pools are files, too; `/mp-` would not tell whose they are. Children inherit the prefix.
    multiprocessing.process.current_process()._config["semprefix"] = f"/{_semaphores(own)}"  # pyright: ignore


def remove_if_killed(home: Path, path: Path) -> None:
    """Have a temporary file or folder, wherever it is, removed when this process ends without having removed it."""
    _remember(own_folder(home), path)


def _remember(own: Path, path: Path) -> None:
    with (own / _ELSEWHERE).open("ab") as file:
        file.write(os.fsencode(path.absolute()) + b"\0")


def _temporary_folder(own: Path) -> Path:
    chosen = _chosen_by_user()
    try:
        if chosen == _ROOT:
            folder = own / "tmp"
            folder.mkdir(mode=0o700, exist_ok=True)
        else:
            folder = Path(tempfile.mkdtemp(prefix="mill-", dir=chosen))
            _remember(own, folder)
    except OSError as error:
        raise ResourceError(
            f"cannot make a temporary folder in {chosen} ({error.strerror}); free space, or set TMPDIR to another one"
        ) from error
    return folder


@functools.cache
def _chosen_by_user() -> Path:
    """The folder of temporary files (TMPDIR, else /tmp) as it was before this process changed it."""
    return Path(tempfile.gettempdir())


@functools.cache
def _own_folder(home: Path, process: int) -> Path:
    with _locked(home) as scratch:
        _sweep(scratch)
        folder = scratch / secrets.token_hex(4)
        folder.mkdir(mode=0o700)
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
    os.environ[COMMAND] = str(folder)
    # Run at exit, also in processes of a pool, where atexit is not; after their own children have ended.
    multiprocessing.util.Finalize(None, _release, (home, folder), exitpriority=-1)
    return folder


def _release(home: Path, folder: Path) -> None:
    with _locked(home) as scratch:
        _remove(folder)
        _remove_if_empty(scratch)


def _sweep(scratch: Path) -> None:
    """End and remove what commands left that no longer live."""
    for folder in scratch.iterdir():
        if folder.name != _STACK and not _is_held(folder):
            end_all(str(folder))
            _remove(folder)


def _is_held(folder: Path) -> bool:
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _remove(folder: Path) -> None:
    if any(folder.glob("session_*")):
        end_holders(folder)  # Ray's agents write on for seconds after its node has ended, and would make folders anew
    if (folder / _ELSEWHERE).exists():
        for path in filter(None, (folder / _ELSEWHERE).read_bytes().split(b"\0")):
            with contextlib.suppress(OSError):
                remove_path(Path(os.fsdecode(path)))
    for semaphore in Path("/dev/shm").glob(f"sem.{_semaphores(folder)}-*"):
        semaphore.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _semaphores(folder: Path) -> str:
    return f"mill-{folder.name}"


def _remove_if_empty(scratch: Path) -> None:
    with contextlib.suppress(OSError):
        scratch.rmdir()


@contextlib.contextmanager
def _locked(home: Path) -> Iterator[Path]:
    """The folder of a home, in which one process at a time adds, sweeps or removes: a new folder has no lock at first.

    The lock is on the folder itself, so that a home which cannot be written to has one, too.
    """
    descriptor = -1
    while True:
        scratch = scratch_folder(home)
        with contextlib.suppress(FileNotFoundError):  # the last command removed it meanwhile, or while this one waited
            descriptor = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(descriptor), scratch.lstat()):
                break
        if descriptor >= 0:
            os.close(descriptor)
            descriptor = -1
    try:
        yield scratch
    finally:
        os.close(descriptor)
