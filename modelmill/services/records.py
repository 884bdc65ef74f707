"""Keys, manifests and runs of lines (JSON files) → their content, checked; what cannot be read counts as absent."""

import logging
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from modelmill.tasks.files import read_json

_LOGGER = logging.getLogger(__name__)
_said: set[Path] = set()
_REPAIR = "`mill verify --repair` restores it or moves it away"

# Becomes part of a path.
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$")]


class Record(BaseModel):
    """A file of JSON; fields beside those named here may stand there too."""

    model_config = ConfigDict(strict=True, extra="allow")


class IdentityRecord(Record):
    """What a key was made from."""

    config: dict[str, Any]
    inputs: list[list[str]]
    code: dict[str, str]
    libraries: dict[str, str]
    external: dict[str, str]


class _File(Record):
    path: str
    bytes: int
    sha256: str
    xxh3: str | None = None


class _Counts(Record):
    into: int = Field(alias="in")
    out: int
    unit: str
    dropped: dict[str, int]


class Manifest(Record):
    """What a build left."""

    type: str
    stage: _Name
    id: str
    key: _Name
    digest: _Name
    identity: IdentityRecord
    files: list[_File]
    counts: _Counts
    metrics: dict[str, float | bool]
    inputs: list[dict[str, str]]
    recipe_part: dict[str, Any]
    waivers: list[str]
    why: list[str]
    summary: str
    seconds: float
    peak_memory_bytes: float
    created: float
    links: dict[str, str] | None = None
    evidence: _Name | None = None
    accepted: dict[str, Any] | None = None


class _Build(Record):
    key: _Name
    digest: _Name
    time: float


class _Stage(Record):
    id: str
    stage: _Name
    status: str
    key: Literal[""] | _Name | None = None
    digest: Literal[""] | _Name | None = None
    seconds: float | None = None
    why: list[str] | None = None
    error: str | None = None
    external: list[str] | None = None
    earlier: _Build | None = None


class Run(Record):
    """What a run of a recipe left."""

    name: str
    recipe: dict[str, Any]
    stages: list[_Stage]
    links: dict[str, str]
    time: float
    overrides: list[str]
    former: list[_Stage] | None = None


class _Service(Record):
    name: str
    pid: int
    created: float
    url: str
    log: str


class StackRecord(Record):
    """What `mill up` started."""

    token: str
    services: list[_Service]
    environment: dict[str, str]


class UnreadableError(Exception):
    """A record that is there and is not what it should be."""


def load_record(path: Path, shape: type[Record]) -> dict[str, Any] | None:
    """The record, or None where there is none.

    Raises:
        UnreadableError: the file cannot be read, is no JSON, or lacks a field.
    """
    try:
        value = read_json(path)
        shape.model_validate(value)
        return value
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError as error:
        item = error.errors()[0]
        place = ".".join(map(str, item["loc"]))
        raise UnreadableError(f"{path} is damaged ({place}: {item['msg']})".replace("(: ", "(")) from error
    except (OSError, ValueError, RecursionError) as error:
        raise UnreadableError(f"{path} is damaged ({error})") from error


def read_record(path: Path, shape: type[Record], advice: str = _REPAIR) -> dict[str, Any] | None:
    """The record, or None where there is none that can be read; of a damaged one one line says so, with `advice`."""
    try:
        return load_record(path, shape)
    except UnreadableError as error:
        if path not in _said:
            _said.add(path)
            _LOGGER.warning("%s and counts as absent; %s", error, advice)
        return None
