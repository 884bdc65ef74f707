"""Recipe part of tokenize → size of the vocabulary and how much text it is learnt from."""

from pathlib import Path

from pydantic import Field

from modelmill.tasks.errors import InputError
from modelmill.tasks.files import file_digest
from modelmill.tasks.stage import StageConfig
from modelmill.tasks.tokenize.vocabulary import MIN_VOCABULARY

# Mistral's vocabulary: its name in a recipe, and its version as mistral-common names it.
TEKKEN = "tekken"
TEKKEN_FILE = "tekken_240911.json"


class Config(StageConfig):
    """A byte-level BPE trained on a sample of the training split, drawn by the corpus's mixture."""

    vocab_size: int = Field(ge=MIN_VOCABULARY, le=1 << 20)
    """Tokens in all: special tokens, the 256 bytes, and merges."""
    sample_megabytes: float = Field(default=16.0, gt=0)
    """Megabytes of text that the merges are learnt from; the corpus where it is smaller."""
    min_frequency: int = Field(default=2, ge=1)
    """A pair that occurs less often in the sample is not merged."""
    max_token_bytes: int = Field(default=32, ge=4)
    """No token is longer; keeps banners and rules made of one character from filling the vocabulary."""
    reference: str | None = Field(default=None, json_schema_extra={"placement": True})
    """A vocabulary to compare with on the validation documents: `tekken` (Mistral's, which mistral-common carries), or
    the folder of a tokenizer, whose content enters the stage's key."""


def external_digests(config: Config) -> dict[str, str]:
    """What the reference vocabulary is: the version of Tekken, or the digest of the folder's `tokenizer.json`.

    Raises:
        InputError: there is no such folder.
    """
    if config.reference in (None, TEKKEN):
        return {} if config.reference is None else {"reference": TEKKEN_FILE}
    path = Path(config.reference) / "tokenizer.json"
    if not path.is_file():
        raise InputError(
            f"tokenize.reference: no tokenizer at {path}; give `{TEKKEN}`, or a folder that `save_pretrained` wrote"
        )
    return {"reference": file_digest(path)}
