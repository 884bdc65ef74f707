"""A home and a name → a random secret of that home, in a file that only those who may use the home can read."""

import contextlib
import os
import secrets
from pathlib import Path

_PRIVATE, _OF_GROUP = 0o600, 0o640
_GROUP_WRITES = 0o020


def secret_file(home: Path, name: str) -> Path:
    """The file `secrets/NAME` of a home: 64 hexadecimal digits, drawn at the first use and never changed after it.

    Several processes may ask for it first at once; all get the same. Where a group shares the home, the group reads it.
    """
    path = home / "secrets" / name
    if path.exists():
        return path
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    shared = home.stat().st_mode & _GROUP_WRITES
    if shared:
        path.parent.chmod(0o2750)
    temporary = path.with_name(f".{name}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE)
    try:
        os.write(descriptor, secrets.token_hex(32).encode())
        os.fchmod(descriptor, _OF_GROUP if shared else _PRIVATE)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    # A link, not a rename: the first process wins, and nobody's secret is replaced under it.
    with contextlib.suppress(FileExistsError):
        os.link(temporary, path)
    temporary.unlink()
    return path


def read_secret(home: Path, name: str) -> str:
    """The secret itself."""
    return secret_file(home, name).read_text(encoding="ascii")
