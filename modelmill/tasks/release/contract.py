"""The artifacts that go into a release → the model to release, or an error that says what does not fit.

Everything here fails closed: what cannot be read does not pass.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelmill.tasks.errors import ContractError
from modelmill.tasks.evaluate.models import LineModel, line_models
from modelmill.tasks.files import file_digest, read_json
from modelmill.tasks.stage import Artifact

EMBEDDING = "model.embed_tokens.weight"


@dataclass(frozen=True)
class Tensors:
    """Shapes and types of a folder's tensors, read from the safetensors headers only."""

    shapes: Mapping[str, tuple[int, ...]]
    dtypes: frozenset[str]

    @property
    def parameters(self) -> int:
        """Number of weights, tied ones once."""
        total = 0
        for shape in self.shapes.values():
            size = 1
            for length in shape:
                size *= length
            total += size
        return total


def released_model(inputs: Mapping[str, Sequence[Artifact]]) -> tuple[Artifact, Path]:
    """The artifact to release and its model folder: the last chat model, or else the last checkpoint."""
    artifact = (inputs.get("chat") or inputs.get("checkpoint") or (None,))[-1]
    if artifact is None:
        raise ContractError("the line has neither a chat model nor a checkpoint before release; there is no model")
    return artifact, artifact.path / "model"


def check_contract(inputs: Mapping[str, Sequence[Artifact]], folder: Path) -> Tensors:
    """All models of the line share the released one's tokenizer and chat template, and its vocabulary fits its weights.

    Raises:
        ContractError: something differs, or a file is missing.
    """
    for model in line_models(inputs):
        check_same_file(folder, model, "tokenizer.json", tokenizer_digest)
        check_same_file(folder, model, "chat template", chat_template_digest)
    tensors = read_tensors(folder)
    check_vocabulary(folder, tensors)
    return tensors


def check_same_file(folder: Path, model: LineModel, what: str, digest: Any) -> None:
    """One model of the line against the released one."""
    expected, found = digest(folder), digest(model.folder)
    if expected != found:
        raise ContractError(
            f"{what} of {model.id} ({found[:12]}) differs from that of the released model ({expected[:12]}); all "
            "models of a line must read and write the same tokens. Rerun the line from the stage that changed it."
        )


def check_vocabulary(folder: Path, tensors: Tensors) -> None:
    """The configuration's vocabulary is the embedding's number of rows, and the tokenizer has no id beyond it."""
    rows = tensors.shapes[EMBEDDING][0]
    configured = read_json(folder / "config.json").get("vocab_size")
    tokenizer = read_json(folder / "tokenizer.json")
    ids = [*tokenizer["model"]["vocab"].values(), *(token["id"] for token in tokenizer["added_tokens"])]
    if not (rows == configured == max(ids) + 1):
        raise ContractError(
            f"{folder}: the embedding has {rows} rows, config.json says vocab_size {configured}, and the tokenizer's "
            f"ids end at {max(ids)}; all three must agree. Train again with the tokens that belong to this tokenizer."
        )


def tokenizer_digest(folder: Path) -> str:
    """SHA-256 of the tokenizer."""
    return required_digest(folder / "tokenizer.json")


def chat_template_digest(folder: Path) -> str:
    """SHA-256 of the chat template."""
    return required_digest(folder / "chat_template.jinja")


def required_digest(path: Path) -> str:
    if not path.is_file():
        raise ContractError(f"{path} is missing; a released model needs it. Rebuild the stage that wrote the folder.")
    return file_digest(path)


def read_tensors(folder: Path) -> Tensors:
    """Shapes and types of all tensors of a Hugging Face folder, from the files' headers.

    Raises:
        ContractError: there is no safetensors file, it is not one, or it lacks the embedding.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: set[str] = set()
    for path in sorted(folder.glob("*.safetensors")):
        for name, entry in safetensors_header(path).items():
            if name != "__metadata__":
                shapes[name] = tuple(entry["shape"])
                dtypes.add(entry["dtype"])
    if EMBEDDING not in shapes:
        raise ContractError(f"no tensor {EMBEDDING} in the safetensors files of {folder}; found {len(shapes)} tensors")
    return Tensors(shapes, frozenset(dtypes))


def safetensors_header(path: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file: 8 bytes of little-endian length, then that much JSON."""
    with path.open("rb") as file:
        try:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                raise ValueError(f"a header of {length} bytes in a file of {path.stat().st_size}")
            return json.loads(file.read(length))
        except (struct.error, ValueError) as error:
            raise ContractError(f"{path} is not a whole safetensors file: {error}. Rebuild the stage.") from error


def check_scored(scorecard: Mapping[str, Any], model: LineModel) -> dict[str, Any]:
    """The scorecard's entry of exactly these weights.

    Raises:
        ContractError: the released weights were not evaluated.
    """
    for entry in scorecard["models"]:
        if entry["weights"] == model.weights:
            return entry
    raise ContractError(
        f"the scorecard has no figures of the released weights ({model.id}); it has "
        f"{', '.join(entry['id'] for entry in scorecard['models'])}. Let evaluate's `models` include {model.id}."
    )
