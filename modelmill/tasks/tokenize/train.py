"""Sampled texts → a byte-level BPE tokenizer as a Hugging Face folder."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from modelmill.tasks.files import atomic_path
from modelmill.tasks.tokenize.merges import trained_bpe
from modelmill.tasks.tokenize.vocabulary import BEGIN_OF_TEXT, END_OF_TEXT, PAD, SPECIAL_TOKENS

TEMPLATE = Path(__file__).parent / "data" / "chat_template.jinja"


def train_tokenizer(
    samples: Sequence[str], output: str, vocab_size: int, min_frequency: int, max_token_bytes: int
) -> dict[str, Any]:
    """Learn the merges from the `text` columns of these Parquet files; returns the size that was reached."""
    tokenizer = trained_bpe(_texts(samples), vocab_size, min_frequency, max_token_bytes)
    save_tokenizer(tokenizer, Path(output))
    return {"vocab_size": tokenizer.get_vocab_size()}


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write a folder that `AutoTokenizer.from_pretrained` opens, chat template included.

    Nothing is added when plain text is encoded: documents begin without a token and end with end-of-text.
    """
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=PAD,
        additional_special_tokens=[token for token in SPECIAL_TOKENS if token not in (BEGIN_OF_TEXT, END_OF_TEXT, PAD)],
        chat_template=TEMPLATE.read_text(encoding="utf-8"),
        clean_up_tokenization_spaces=False,
    )
    with atomic_path(folder) as temporary:
        wrapped.save_pretrained(temporary)


def _texts(samples: Sequence[str]) -> Iterator[str]:
    for path in samples:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=256, columns=["text"]):
            yield from batch.column("text").to_pylist()
