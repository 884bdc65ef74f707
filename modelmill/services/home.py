"""A home folder → who may use it: private to its owner, or shared with a group; and what it holds."""

import grp
import os
import pwd
import re
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modelmill.tasks.errors import InputError, ResourceError
from modelmill.tasks.files import read_json, write_json

FORMAT = 1
"""Of the folders and records in a home; a later release that changes them counts up."""
MARKER = "home.json"
# What may lie in a folder that becomes a home: what file systems put there, and the marker while it is written. A
# folder with other hidden names is somebody's: a repository, a user's own home.
_OF_FILE_SYSTEMS = re.compile(
    r"lost\+found|\.snapshots?|\.zfs|\.nfs.*|\.Trash.*|\.DS_Store|\.fseventsd|\.home\.json\..*"
)
_SECRET_NAMES = re.compile("login|ray|sources")  # a secret may be given before the first run
_DIGEST, _WORKSPACE = re.compile("[0-9a-f]{64}"), re.compile(r".+-[0-9a-f]{16}(\.lock)?")
_PRIVATE, _SHARED = 0o700, 0o2770
_SECRETS = "secrets"
_GROUP_WRITES = stat.S_ISGID | stat.S_IWGRP


def prepare_home(home: Path) -> int:
    """Make the home where there is none, close it to others, and return the umask of all that is written in it.

    A home that its group shares (`share_home`) stays open to the group.

    Raises:
        ResourceError: the home cannot be made, is no folder, holds other things, belongs to somebody else, or a newer
            Modelmill wrote it.
    """
    _check_name(home)
    try:
        home.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        blocking = next(path for path in (home, *home.parents) if path.exists() and not path.is_dir())
        raise ResourceError(
            f"the home {home} cannot be made: {blocking} is a file. Set MILL_HOME to a folder of its own."
        ) from error
    except OSError as error:
        raise ResourceError(
            f"the home {home} cannot be made: {error.strerror}. Set MILL_HOME to a folder that you may write."
        ) from error
    _check_owner(home)
    if home.stat().st_mode & stat.S_IWOTH and home.stat().st_mode & stat.S_ISVTX:  # as /tmp, which must not be closed
        raise ResourceError(
            f"everybody may write in {home}, so it cannot be a home. Set MILL_HOME to a folder of its own."
        )
    if (other := _other_thing(home)) is not None:
        raise ResourceError(
            f"{home} is no home of Modelmill: it holds {other}. A home is closed to others and filled with files, so "
            f"set MILL_HOME to a folder of its own, such as {home / '.mill'}."
        )
    _check_format(home)
    _close_to_others(home)
    _open_databases(home)
    return home_umask(home)


def home_umask(home: Path) -> int:
    """What is written in a home is its owner's alone, or also its group's where the group shares it."""
    return 0o007 if is_shared(home) else 0o077


def is_shared(home: Path) -> bool:
    """Whether the group of the home may write in it, and new files get that group."""
    return home.stat().st_mode & _GROUP_WRITES == _GROUP_WRITES


def share_home(home: Path, group: str) -> int:
    """Give a group the whole home, secrets to read only; returns the number of files and folders.

    Raises:
        InputError: there is no such group.
        ResourceError: a file belongs to somebody else.
    """
    try:
        number = grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise InputError(f"this machine has no group {group!r}; `getent group` lists the groups") from error
    return _set_modes(home, folders=_SHARED, files=0o060, secrets=(0o2750, 0o640), group=number)


def make_private(home: Path) -> int:
    """Take the home back from its group; returns the number of files and folders.

    Raises:
        ResourceError: a file belongs to somebody else.
    """
    return _set_modes(home, folders=_PRIVATE, files=0, secrets=(_PRIVATE, 0o600), group=None)


def things_of_others(home: Path) -> list[Path]:
    """Links, and what belongs to somebody else: what a member of the group may have left in a home."""
    return [path for path in _tree(home) if path.is_symlink() or path.lstat().st_uid != home.stat().st_uid]


def describe_home(home: Path) -> dict[str, Any]:
    """Path, format, owner, group, mode, bytes, and bytes by part; links are not followed."""
    info = home.stat()
    parts: dict[str, int] = {}
    for path in sorted(home.iterdir()):
        parts[path.name] = sum(entry.lstat().st_size for entry in _tree(path) if not entry.is_dir())
    return {
        "path": str(home),
        "format": _format(home),
        "owner": _user_name(info.st_uid),
        "group": _group_name(info.st_gid),
        "mode": f"{stat.S_IMODE(info.st_mode):04o}",
        "shared": is_shared(home),
        "bytes": sum(parts.values()),
        "parts": parts,
    }


def _check_owner(home: Path) -> None:
    info = home.stat()
    if info.st_uid != os.geteuid() and not is_shared(home):
        raise ResourceError(
            f"the home {home} belongs to {_user_name(info.st_uid)}, and you are {_user_name(os.geteuid())}. Set "
            "MILL_HOME to a folder of your own, or let the owner share it: `mill home --share GROUP`."
        )


def _check_format(home: Path) -> None:
    found = _format(home)
    if found > FORMAT:
        raise ResourceError(
            f"{home} has format {found}, and this Modelmill knows formats up to {FORMAT}: install the newer one"
        )
    if not (home / MARKER).exists() and os.access(home, os.W_OK):
        write_json(home / MARKER, {"format": FORMAT})
        (home / MARKER).chmod(0o660 if is_shared(home) else 0o600)


def _format(home: Path) -> int:
    try:
        return int(read_json(home / MARKER)["format"])
    except (OSError, ValueError, TypeError, KeyError):
        return FORMAT  # a home made before there were markers


def _close_to_others(home: Path) -> None:
    mode = stat.S_IMODE(home.stat().st_mode)
    wanted = _SHARED if is_shared(home) else _PRIVATE
    if not mode & ~wanted or not os.access(home, os.W_OK) or home.stat().st_uid != os.geteuid():
        return
    home.chmod(wanted)
    sys.stderr.write(f"mill: {home} was open to others (mode {mode:04o}) and is closed now (mode {wanted:04o})\n")


def _open_databases(home: Path) -> None:
    """SQLite makes its files 0644 whatever the umask is; in a shared home the group must write them too."""
    if not is_shared(home):
        return
    for name in ("mlflow.db", "prefect/prefect.db"):
        for path in (home / f"{name}{suffix}" for suffix in ("", "-wal", "-shm")):
            if path.is_file() and path.stat().st_uid == os.geteuid():
                path.chmod(0o660)


def _check_name(home: Path) -> None:
    try:
        str(home).encode()
    except UnicodeEncodeError as error:
        raise ResourceError(
            f"the path of the home, {str(home)!a}, is not UTF-8, and records could not name it. Set MILL_HOME to "
            "another folder."
        ) from error


def _other_thing(home: Path) -> str | None:
    """Something that stands in a folder which Modelmill has not made; None of a home, and of an empty folder."""
    if is_marker(home / MARKER) or (_holds_only(home / "artifacts", _DIGEST) and (home / "keys").is_dir()):
        return None  # the latter was made before there were markers
    known = {"work": _WORKSPACE, _SECRETS: _SECRET_NAMES}
    names = sorted(path.name for path in home.iterdir() if not _OF_FILE_SYSTEMS.fullmatch(path.name))
    return next((name for name in names if name not in known or not _holds_only(home / name, known[name])), None)


def _holds_only(folder: Path, names: re.Pattern[str]) -> bool:
    """Whether a folder is there, is not empty, and every name in it has this form."""
    found = list(folder.iterdir()) if folder.is_dir() else []
    return bool(found) and all(names.fullmatch(path.name) for path in found)


def is_marker(path: Path) -> bool:
    """Whether a file says which format a home has."""
    try:
        return isinstance(read_json(path)["format"], int)
    except (OSError, ValueError, TypeError, KeyError):
        return False


def _set_modes(home: Path, folders: int, files: int, secrets: tuple[int, int], group: int | None) -> int:
    """`files`: what a file gets for its group, of reading and writing; the owner's permissions stay."""
    count = 0
    for path in _tree(home):
        try:
            if group is not None:
                os.chown(path, -1, group, follow_symlinks=False)
            if path.is_symlink():
                continue
            is_secret = path.relative_to(home).parts[:1] == (_SECRETS,)
            if path.is_dir():
                path.chmod(secrets[0] if is_secret else folders)
            else:
                path.chmod(secrets[1] if is_secret else path.stat().st_mode & 0o700 | 0o600 | files)
        except FileNotFoundError:
            continue  # a running line removes temporary files
        except PermissionError as error:
            owner = _user_name(path.lstat().st_uid)
            raise ResourceError(
                f"{path} belongs to {owner}, who alone may change its mode: let {owner} run the same command"
            ) from error
        count += 1
    return count


def _tree(path: Path) -> Iterator[Path]:
    """The path and, where it is a folder, all below it."""
    yield path
    if path.is_dir() and not path.is_symlink():
        for folder, names, others in os.walk(path):
            for name in (*names, *others):
                yield Path(folder, name)


def _user_name(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def _group_name(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return f"group {number}"
