"""A name from a recipe, a command line or data → the same name, once it is safe as the name of a file or folder."""

import re
from typing import Annotated

from pydantic import AfterValidator

LONGEST = 64
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_STAGE = re.compile(r"[a-z0-9][a-z0-9-]*")
_FOLDER = re.compile(r"[a-z0-9][a-z0-9_-]*")
# Devices on Windows and on shares that Windows serves, whatever follows a dot.
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10))}


def file_name(text: str) -> str:
    """The text, if it may name a file: no path, nothing hidden, nothing that a shell, a URL or Windows reads otherwise.

    Raises:
        ValueError: it may not.
    """
    return _checked(text, _FILE, "letters, digits, dots, - and _, beginning with a letter or a digit")


def stage_name(text: str) -> str:
    """The text, if it may be the id of a stage. Raises ValueError."""
    return _checked(text, _STAGE, "small letters, digits and -, beginning with a letter or a digit")


def domain_name(text: str) -> str:
    """The text, if it may be a domain, which is a folder of token shards. Raises ValueError."""
    return _checked(text, _FOLDER, "small letters, digits, - and _, beginning with a letter or a digit")


FileName = Annotated[str, AfterValidator(file_name)]


def _checked(text: str, pattern: re.Pattern[str], allowed: str) -> str:
    is_plain = pattern.fullmatch(text) and len(text) <= LONGEST and not text.endswith(".")
    if is_plain and text.lower().partition(".")[0] not in _DEVICES:
        return text
    shown = text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
    raise ValueError(
        f"found the name {shown!r}; expected at most {LONGEST} {allowed} (and no name of a Windows device)"
    )
