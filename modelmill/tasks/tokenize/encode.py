"""Column of texts and a tokenizer folder → token ids in one flat array with the borders between the texts."""

from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer, pre_tokenizers

from modelmill.tasks.errors import InputError
from modelmill.tasks.models.folder import check_tokenizer_folder, opening
from modelmill.tasks.text.flat import utf8_buffers
from modelmill.tasks.tokenize.byte_pairs import MAX_PIECE_BYTES, BytePairs, byte_pairs, piece_tokens
from modelmill.tasks.tokenize.pieces import Pieces, byte_characters, join_pieces, piece_splitter, split_pieces
from modelmill.tasks.tokenize.shards import token_dtype

# Bounds the memory of the scanner's tables, about 40 bytes for each byte of text at worst.
BATCH_BYTES = 16_000_000


class TokenRows(NamedTuple):
    """Token ids of all texts, end to end, and the `num_texts + 1` borders between them (int64)."""

    tokens: np.ndarray
    offsets: np.ndarray


class Encoder:
    """Encodes columns of text with the ids that `AutoTokenizer` gives, but for one thing: the text of a special token
    (a page that shows `<|eot|>`) is text here, so that no document can forge the end of another or a turn of a chat.

    Raises:
        InputError: the folder holds no `tokenizer.json`.
    """

    def __init__(self, folder: Path | str) -> None:
        path = Path(folder) / "tokenizer.json"
        if not path.is_file():
            raise InputError(
                f"no tokenizer at {path}; give a folder that the tokenize stage or `save_pretrained` wrote"
            )
        check_tokenizer_folder(path.parent)
        with opening(path.parent):
            self.tokenizer = Tokenizer.from_file(str(path))
        self.tokenizer.encode_special_tokens = True
        self.dtype = token_dtype(self.tokenizer.get_vocab_size())
        # The scanner of pieces.py knows one pattern; a tokenizer from elsewhere takes the library's slower way.
        self.pairs = byte_pairs(self.tokenizer) if _cuts_by_pieces(self.tokenizer) else None
        if self.pairs is not None:
            self.tokenizer.pre_tokenizer = byte_characters()  # pyright: ignore[reportAttributeAccessIssue] (a setter)

    def encode(self, texts: pa.ChunkedArray, end_token: int | None = None) -> TokenRows:
        """Token ids of every text (a null is empty), each followed by `end_token` if one is given."""
        batches = [self._encode_batch(batch, end_token) for batch in _batches(texts)]
        tokens = np.concatenate([np.empty(0, self.dtype), *(batch.tokens for batch in batches)])
        lengths = [np.diff(batch.offsets) for batch in batches]
        return TokenRows(tokens, np.cumsum(np.concatenate([[0], *lengths]), dtype=np.int64))

    def _encode_batch(self, texts: pa.LargeStringArray, end_token: int | None) -> TokenRows:
        if self.pairs is None:
            rows = _flat_ids(self.tokenizer, texts.to_pylist(), self.dtype)
        else:
            rows = self._encode_pieces(self.pairs, *utf8_buffers(texts))
        if end_token is None:
            return rows
        offsets = rows.offsets + np.arange(len(rows.offsets))
        tokens = np.insert(rows.tokens, rows.offsets[1:], end_token)
        return TokenRows(tokens, offsets)

    def _encode_pieces(self, pairs: BytePairs, data: np.ndarray, offsets: np.ndarray) -> TokenRows:
        """Cut by the compiled scanner, merge each distinct piece once, put the pieces' ids end to end."""
        pieces = split_pieces(data, offsets)
        tokens, borders = piece_tokens(pairs, data, pieces.starts, pieces.ends)
        tokens, borders = self._with_long_pieces(data, pieces, tokens.astype(self.dtype), borders)
        return TokenRows(*join_pieces(pieces, tokens, borders))

    def _with_long_pieces(
        self, data: np.ndarray, pieces: Pieces, tokens: np.ndarray, borders: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The same with the pieces that were too long for the compiled merge, encoded by the library."""
        long = np.flatnonzero(pieces.ends - pieces.starts > MAX_PIECE_BYTES)
        if not len(long):
            return tokens, borders
        texts = [data[pieces.starts[piece] : pieces.ends[piece]].tobytes().decode() for piece in long]
        rows = _flat_ids(self.tokenizer, texts, self.dtype)
        lengths = np.diff(borders)
        lengths[long] = np.diff(rows.offsets)
        tokens = np.insert(tokens, np.repeat(borders[long], lengths[long]), rows.tokens)
        return tokens, np.concatenate([[0], np.cumsum(lengths)])


def encode_rows(table: pa.Table, tokenizer_folder: Path | str) -> pa.Table:
    """The table with a column `token_ids`: the ids of its column `text`, without special tokens."""
    encoder = Encoder(tokenizer_folder)
    rows = encoder.encode(table["text"])
    column = pa.LargeListArray.from_arrays(pa.array(rows.offsets), pa.array(rows.tokens))
    return table.append_column("token_ids", column)


def _flat_ids(tokenizer: Tokenizer, texts: list[str], dtype: np.dtype) -> TokenRows:
    ids = [encoding.ids for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
    offsets = np.cumsum([0, *map(len, ids)], dtype=np.int64)
    return TokenRows(np.fromiter(chain.from_iterable(ids), dtype, offsets[-1]), offsets)


def _batches(texts: pa.ChunkedArray) -> list[pa.LargeStringArray]:
    """The column in runs of rows of about BATCH_BYTES, nulls as empty strings."""
    column = pa.chunked_array([pa.array([], pa.large_string()), *texts.cast(pa.large_string()).chunks])
    whole = column.combine_chunks().fill_null("")
    offsets = np.frombuffer(whole.buffers()[1], np.int64)[whole.offset : whole.offset + len(whole) + 1]
    batches, start = [], 0
    while start < len(whole):
        end = int(np.searchsorted(offsets, offsets[start] + BATCH_BYTES, side="right")) - 1
        end = min(max(end, start + 1), len(whole))
        batches.append(whole.slice(start, end - start))
        start = end
    return batches


def _cuts_by_pieces(tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer cuts as train.py's do, and knows no token that is found in text before the cut."""
    splitter = tokenizer.pre_tokenizer
    if tokenizer.normalizer is not None or not isinstance(splitter, pre_tokenizers.Sequence):
        return False
    only_special = all(token.special for token in tokenizer.get_added_tokens_decoder().values())
    return only_special and splitter.__getstate__() == piece_splitter().__getstate__()
