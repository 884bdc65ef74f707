"""A path a person gave → the Hugging Face folder in it and the model's name."""

import json
from pathlib import Path

from modelmill.tasks.errors import InputError
from modelmill.tasks.models.folder import check_model_folder


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
    release = folder.parent / "release.json"
    if not release.is_file():
        return []
    verified = json.loads(release.read_text(encoding="utf-8")).get("scores", {}).get("verified", {})
    examples: dict[str, str] = verified.get("examples", {})
    return [examples[name] for name in sorted(examples, key=lambda name: -verified["by_family"][name]["accuracy"])]


def model_name(folder: Path) -> str:
    """The name in release.json where that lies beside the folder, otherwise the folder's (or its parent's) name."""
    release = folder.parent / "release.json"
    if release.is_file():
        return json.loads(release.read_text(encoding="utf-8"))["name"]
    return folder.resolve().parent.name if folder.name == "model" else folder.resolve().name
