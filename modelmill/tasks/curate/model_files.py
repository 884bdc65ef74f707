"""A model's folder → a digest that enters a stage's key."""

import hashlib
import json
from pathlib import Path
from typing import BinaryIO

from modelmill.tasks.errors import InputError
from modelmill.tasks.files import file_digest, value_digest
from modelmill.tasks.models.folder import check_model_folder

END_BYTES = 4096
_DESCRIPTIONS = (".json", ".jinja", ".model", ".txt")


def model_digest(folder: Path, setting: str) -> str:
    """Digest of a model folder: its descriptions whole; of the weights the headers and both ends of each tensor.

    To read the weights of a large model at every plan would take minutes. What changes a model changes its tensors at
    their ends too: an optimiser's step, an adapter merged into it, an average, another precision.

    Raises:
        InputError: the folder that `setting` names holds no model.
    """
    weights = sorted(folder.glob("*.safetensors"))
    if not (folder / "config.json").is_file() or not weights:
        raise InputError(
            f"{setting}: {folder} holds no config.json with *.safetensors; give the folder of a Hugging Face model"
        )
    check_model_folder(folder)
    described = [path for path in sorted(folder.iterdir()) if path.suffix in _DESCRIPTIONS]
    return value_digest(
        [[path.name, file_digest(path)] for path in described]
        + [[path.name, _weights_digest(path, setting)] for path in weights]
    )


def _weights_digest(path: Path, setting: str) -> str:
    """SHA-256 over the header of a safetensors file (names, types, shapes) and both ends of each of its tensors."""
    with path.open("rb") as file:
        header, spans = _header(file, path.stat().st_size)
        if spans is None:
            raise InputError(f"{setting}: {path} is no safetensors file; restore it, or name another model")
        digest = hashlib.sha256(header)
        for start, stop in spans:
            for first in (start, max(stop - END_BYTES, start)):
                file.seek(8 + len(header) + first)
                digest.update(file.read(min(END_BYTES, stop - first)))
    return digest.hexdigest()


def _header(file: BinaryIO, size: int) -> tuple[bytes, list[tuple[int, int]] | None]:
    """The header, and where each tensor lies behind it; None where the file is no safetensors file."""
    length = int.from_bytes(file.read(8), "little")
    header = file.read(length) if length <= size - 8 else b""
    try:
        tensors = json.loads(header)
    except ValueError:
        return header, None
    if not isinstance(tensors, dict):
        return header, None
    return header, sorted(tuple(entry["data_offsets"]) for name, entry in tensors.items() if name != "__metadata__")
