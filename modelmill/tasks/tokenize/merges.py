"""Texts → the merges of a byte-level BPE.

The trainer counts in parallel but breaks ties by token id, so the number of threads does not change its output.
"""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from modelmill.tasks.tokenize.pieces import piece_splitter
from modelmill.tasks.tokenize.vocabulary import SPECIAL_TOKENS


def trained_bpe(texts: Iterable[str], vocab_size: int, min_frequency: int, max_token_bytes: int) -> Tokenizer:
    """Byte-level BPE: the special tokens, then the 256 bytes, then merges in the order of their frequency."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = piece_splitter()  # pyright: ignore[reportAttributeAccessIssue] (a setter)
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue] (a setter)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        max_token_length=max_token_bytes,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
