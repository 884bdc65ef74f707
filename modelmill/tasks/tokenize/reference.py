"""Name of a well-known vocabulary, or a tokenizer folder → an encoder to compare a trained vocabulary with.

Tekken is Mistral's byte-level BPE of 131,072 entries (Apache-2.0). It lies inside the package mistral-common, which
comes with vLLM, so it needs no download.
"""

import base64
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from modelmill.tasks.errors import InputError
from modelmill.tasks.files import read_json
from modelmill.tasks.tokenize.config import TEKKEN, TEKKEN_FILE
from modelmill.tasks.tokenize.encode import Encoder, TokenRows


class Tekken:
    """Encodes columns of text as `Encoder` does, with Mistral's vocabulary in the tiktoken library.

    Raises:
        InputError: mistral-common or tiktoken is not installed.
    """

    def __init__(self) -> None:
        self.encoding = tekken_encoding()

    def encode(self, texts: pa.ChunkedArray) -> TokenRows:
        """Token ids of every text."""
        ids = [self.encoding.encode_ordinary(text) for text in texts.to_pylist()]
        offsets = np.cumsum([0, *map(len, ids)], dtype=np.int64)
        return TokenRows(np.concatenate([np.empty(0, np.uint32), *(np.array(row, np.uint32) for row in ids)]), offsets)


def reference_encoder(reference: str) -> Encoder | Tekken:
    """The encoder of a recipe's `reference`: Tekken by its name, any other by its folder."""
    return Tekken() if reference == TEKKEN else Encoder(reference)


def tekken_encoding() -> Any:
    """Tekken as a `tiktoken.Encoding`, without its special tokens."""
    package = importlib.util.find_spec("mistral_common")
    if package is None or package.origin is None or importlib.util.find_spec("tiktoken") is None:
        raise InputError(
            "tokenize.reference: tekken needs the packages mistral-common and tiktoken, which come with vLLM; "
            "install them, or name a folder with a tokenizer"
        )
    import tiktoken  # comes with vLLM: not everywhere

    described = read_json(Path(package.origin).parent / "data" / TEKKEN_FILE)
    config = described["config"]
    entries = described["vocab"][: config["default_vocab_size"] - config["default_num_special_tokens"]]
    ranks = {base64.b64decode(entry["token_bytes"]): entry["rank"] for entry in entries}
    return tiktoken.Encoding(TEKKEN, pat_str=config["pattern"], mergeable_ranks=ranks, special_tokens={})
