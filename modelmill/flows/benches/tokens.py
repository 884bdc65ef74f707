"""Texts → how fast the encoder of tokenize and its peers encode them with one vocabulary, and with equal ids or not."""

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer

from modelmill.flows.benches.measured import Measured, cpu_seconds
from modelmill.tasks.errors import InputError
from modelmill.tasks.tokenize.byte_pairs import byte_characters
from modelmill.tasks.tokenize.encode import Encoder
from modelmill.tasks.tokenize.merges import trained_bpe
from modelmill.tasks.tokenize.reference import tekken_encoding
from modelmill.tasks.tokenize.train import save_tokenizer
from modelmill.tasks.tokenize.vocabulary import PIECES, SPECIAL_TOKENS

GENERATED_BYTES = 2_000_000


def measure(texts: Sequence[str] | None = None, vocab_sizes: Sequence[int] = (2048, 49_152)) -> list[Measured]:
    """Train a vocabulary of each size on the texts (generated without any) and encode them with it, by every tool.

    `same_texts` is the share of texts that get the very ids of the exported Hugging Face tokenizer (special tokens in
    a text stay text). Tools that bring a vocabulary come last: their tokens are not these, so compare bytes.
    """
    texts = texts or generated_texts(GENERATED_BYTES)
    os.environ["RAYON_NUM_THREADS"] = "1"  # tokenizers' threads wait for work actively, which would count as work
    found = []
    with tempfile.TemporaryDirectory(prefix="mill-bench-") as folder:
        for size in vocab_sizes:
            save_tokenizer(trained_bpe(texts, size, 2, 32), Path(folder) / str(size))
            found += _with_vocabulary(Path(folder) / str(size), texts)
    return found + _with_own_vocabularies(texts)


def generated_texts(num_bytes: int, seed: int = 0) -> list[str]:
    """Made-up words with the frequencies of words (Zipf), in Latin letters and in Chinese characters, with figures."""
    rng = np.random.default_rng(seed)
    latin = ["".join(map(chr, rng.integers(97, 123, length))) for length in rng.integers(1, 11, 20_000)]
    chinese = ["".join(map(chr, rng.integers(0x4E00, 0x9FA5, length))) for length in rng.integers(1, 4, 20_000)]
    texts, size = [], 0
    while size < num_bytes:
        words, space = (latin, " ") if len(texts) % 4 else (chinese, "")
        drawn = [words[number] for number in rng.zipf(1.3, 400) % len(words)]
        drawn[::20] = [f"{number}.\n" for number in rng.integers(0, 2000, 20)]
        texts.append(space.join(drawn))
        size += len(texts[-1].encode())
    return texts


def _with_vocabulary(folder: Path, texts: Sequence[str]) -> list[Measured]:
    library = Tokenizer.from_file(str(folder / "tokenizer.json"))
    library.encode_special_tokens = True
    step = f"encode, {library.get_vocab_size():,} entries"
    expected = [row.ids for row in library.encode_batch_fast(texts, add_special_tokens=False)]
    encoder, column = Encoder(folder), pa.chunked_array([pa.array(texts, pa.large_string())])
    rows = encoder.encode(column)
    ids = [row.tolist() for row in np.split(rows.tokens, rows.offsets[1:-1])]
    found = [
        _measured(step, "modelmill", lambda: encoder.encode(column), texts, ids, expected),
        _measured(step, "tokenizers", lambda: library.encode_batch_fast(texts, False), texts, expected, expected),
    ]
    try:
        import tiktoken  # comes with vLLM
    except ImportError:
        return [*found, Measured(step, "tiktoken", note="not installed")]
    encoding = tiktoken.Encoding("same", pat_str=PIECES, mergeable_ranks=_byte_ranks(library), special_tokens={})
    ids = [[token + len(SPECIAL_TOKENS) for token in encoding.encode_ordinary(text)] for text in texts]
    return [*found, _measured(step, "tiktoken", _each(encoding.encode_ordinary, texts), texts, ids, expected)]


def _with_own_vocabularies(texts: Sequence[str]) -> list[Measured]:
    step, found = "encode, own vocabulary", []
    try:
        encode = _each(tekken_encoding().encode_ordinary, texts)
        found.append(_measured(step, "tiktoken, Tekken", encode, texts, encode()))
    except InputError as error:
        found.append(Measured(step, "tiktoken, Tekken", note=str(error)))
    try:
        import bpe_openai  # pyright: ignore[reportMissingImports] (a peer: not among the dependencies)
    except ImportError:
        return [*found, Measured(step, "bpe-openai", note="not installed")]
    encode = _each(bpe_openai.get_encoding("o200k_base").encode_ordinary, texts)
    return [*found, _measured(step, "bpe-openai, o200k", encode, texts, encode())]


def _each(encode: Callable[[str], list[int]], texts: Sequence[str]) -> Callable[[], list[list[int]]]:
    return lambda: [encode(text) for text in texts]


def _measured(
    step: str,
    tool: str,
    function: Callable[[], object],
    texts: Sequence[str],
    ids: Sequence[list[int]],
    expected: Sequence[list[int]] | None = None,
) -> Measured:
    tokens, size = sum(map(len, ids)), sum(len(text.encode()) for text in texts)
    seconds = cpu_seconds(function)
    quality = {"bytes_per_token": round(size / tokens, 3), "megabytes_per_second": round(size / seconds / 1e6, 2)}
    if expected is not None:
        quality["same_texts"] = sum(map(list.__eq__, ids, expected)) / len(texts)
    return Measured(step, tool, tokens / seconds, "tokens/s", quality)


def _byte_ranks(tokenizer: Tokenizer) -> dict[bytes, int]:
    """The vocabulary as tiktoken takes it: rank by bytes, without the special tokens that come first."""
    byte_of = {character: byte for byte, character in enumerate(byte_characters())}
    vocabulary: dict[str, Any] = tokenizer.get_vocab()
    return {
        bytes(byte_of[character] for character in token): number - len(SPECIAL_TOKENS)
        for token, number in vocabulary.items()
        if token not in SPECIAL_TOKENS
    }
