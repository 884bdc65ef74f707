"""A model's folder → a digest that enters a stage's key."""

import hashlib
from pathlib import Path

from modelmill.tasks.errors import InputError
from modelmill.tasks.files import file_digest, value_digest


def model_ends_digest(folder: Path) -> str:
    """Digest of a model folder: its descriptions whole, of each file of weights the size and both ends.

    To read the weights of a large model at every plan would take minutes; two trainings do not agree in both ends.

    Raises:
        InputError: the folder holds no model.
    """
    weights = sorted(folder.glob("*.safetensors"))
    if not (folder / "config.json").is_file() or not weights:
        raise InputError(
            f"a teacher is to be read from {folder}, which holds no config.json with *.safetensors; "
            "give a Hugging Face model's folder"
        )
    described = [path for path in sorted(folder.iterdir()) if path.suffix in (".json", ".jinja", ".model", ".txt")]
    ends = []
    for path in weights:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            first = file.read(1 << 20)
            file.seek(max(size - (1 << 20), 0))
            ends.append([path.name, size, hashlib.sha256(first + file.read()).hexdigest()])
    return value_digest([[path.name, file_digest(path)] for path in described] + ends)


def model_digest(folder: Path) -> str:
    """Digest of all files of an embedding model.

    Raises:
        InputError: the folder holds no model.
    """
    if not (folder / "config.json").is_file():
        raise InputError(f"semantic.model: {folder} holds no config.json; give the folder of a Hugging Face model")
    files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".model", ".txt"))
    return value_digest([[path.name, file_digest(path)] for path in files])
