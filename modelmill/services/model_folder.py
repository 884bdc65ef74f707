"""A path a person gave → the Hugging Face folder in it and the model's name."""

from pathlib import Path

from pydantic import BaseModel, ValidationError

from modelmill.tasks.errors import InputError
from modelmill.tasks.models.folder import check_model_folder

_RELEASE_BYTES = 16_000_000


class _Family(BaseModel):
    accuracy: float = 0.0


class _Verified(BaseModel):
    examples: dict[str, str] = {}
    by_family: dict[str, _Family] = {}


class _Scores(BaseModel):
    verified: _Verified = _Verified()


class _Release(BaseModel):
    """What is read of the record that release writes beside a model."""

    name: str
    scores: _Scores = _Scores()


def find_model_folder(path: Path) -> Path:
    """The folder that holds config.json: `path` itself, or `path/model` as in the line's artifacts.

    Raises:
        InputError: neither is a Hugging Face model folder, or it cannot be opened safely.
    """
    for folder in (path, path / "model"):
        if (folder / "config.json").is_file():
            check_model_folder(folder)
            return folder
    what = "has no config.json" if path.is_dir() else "does not exist"
    raise InputError(
        f"{path} {what}; expected a Hugging Face model folder, or an artifact of the line with `model/` in it. "
        "`mill show` lists the artifacts of the newest run."
    )


def example_questions(folder: Path) -> list[str]:
    """A question of each task family that the release was measured on, what it answers best first; else none."""
    release = _release(folder)
    verified = release.scores.verified if release else _Verified()
    accuracy = {name: family.accuracy for name, family in verified.by_family.items()}
    return [verified.examples[name] for name in sorted(verified.examples, key=lambda name: -accuracy.get(name, 0.0))]


def model_name(folder: Path) -> str:
    """The name in release.json where that lies beside the folder, otherwise the folder's (or its parent's) name."""
    if release := _release(folder):
        return release.name
    return folder.resolve().parent.name if folder.name == "model" else folder.resolve().name


def _release(folder: Path) -> _Release | None:
    """The record of a release beside its model folder; None where there is none, or another program's file."""
    path = folder.parent / "release.json"
    try:
        if path.stat().st_size > _RELEASE_BYTES:
            return None
        return _Release.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
