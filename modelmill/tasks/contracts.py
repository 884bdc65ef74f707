"""Input artifacts of a stage → nothing, or an error that says which of them do not fit together.

The checks fail closed: a stage does not start on a checkpoint whose tokenizer, chat template or vocabulary differs
from that of the tokens it is to read.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from modelmill.tasks.errors import ContractError
from modelmill.tasks.files import file_digest, read_json
from modelmill.tasks.stage import Artifact

# Files that decide how text becomes token ids.
_TOKENIZER_FILES = ("tokenizer.json", "chat_template.jinja")


def check_inputs(inputs: Mapping[str, Sequence[Artifact]]) -> None:
    """Check all artifacts that a stage is about to consume against each other.

    Raises:
        ContractError: a file is missing, or tokenizers, templates, vocabulary or sequence lengths disagree.
    """
    for tokens in inputs.get("tokens", ()):
        for kind in ("checkpoint", "chat"):
            for model in inputs.get(kind, ()):
                check_model(tokens, model)


def check_model(tokens: Artifact, model: Artifact) -> None:
    """A model must have been trained with the tokenizer of these tokens. Raises ContractError."""
    for name in _TOKENIZER_FILES:
        expected, found = tokens.path / "tokenizer" / name, model.path / "model" / name
        if expected.exists() and _digest(expected) != _digest(found):
            raise ContractError(
                f"{name} of {model.stage_id} ({model.digest[:8]}) differs from that of {tokens.stage_id} "
                f"({tokens.digest[:8]}): the model was trained with another tokenizer. Rerun the line from the first "
                "stage that trains, or take the tokens that the model was trained on."
            )
    rows = int(read_json(model.path / "model" / "config.json")["vocab_size"])
    vocabulary = int(read_json(tokens.path / "index.json")["vocab_size"])
    if rows < vocabulary:
        raise ContractError(
            f"{model.stage_id} has {rows} embedding rows, and its tokenizer {vocabulary} entries: some ids have no row"
        )


def _digest(path: Path) -> str:
    return file_digest(path) if path.is_file() else "missing"
