"""Recipe part of tokenize → size of the vocabulary and how much text it is learnt from."""

from pydantic import Field

from modelmill.tasks.stage import StageConfig
from modelmill.tasks.tokenize.vocabulary import MIN_VOCABULARY


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
