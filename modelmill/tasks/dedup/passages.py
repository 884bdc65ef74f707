"""Texts → sentences or paragraphs, and those of them that near-repeat what many other documents say.

Baichuan deduplicates "at both document and sentence granularity" by locality-sensitive hashing and publishes no more
than that. Here: MinHash over the shingles of each passage; passages that agree in a band are one; a passage that more
than `max_documents` documents have stays in the first of them, in an order that knows nothing of shards.
"""

import numpy as np
import polars as pl
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from modelmill.tasks.dedup.config import Passages
from modelmill.tasks.dedup.lines import NEWLINE, without_pieces
from modelmill.tasks.dedup.minhash import band_hashes
from modelmill.tasks.text.characters import QUOTE, SPACE, TERMINAL, classes
from modelmill.tasks.text.flat import Characters

# From here on scripts end a sentence without a space after it.
FIRST_WIDE = 0x2E80


def cut_passages(texts: Characters, unit: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Beginnings of the passages in the code points, one more at the end; and the passages' offsets per text.

    Passages hold every character: the spaces after a sentence belong to it, line ends are passages of their own.
    """
    return _cut(texts.codes, texts.offsets, classes(), unit == "sentences")


def passage_bands(texts: Characters, config: Passages, rows: NDArray[np.int64], order: NDArray[np.uint64]) -> pa.Table:
    """Band hashes of all passages that are long enough: hash, order (one number a text), row, passage (its number)."""
    bounds, offsets = cut_passages(texts, config.unit)
    hashes, num_words = band_hashes(Characters(texts.codes, bounds), config.minhash)
    text = np.repeat(np.arange(len(texts)), np.diff(offsets))
    chosen = np.flatnonzero(num_words >= config.min_words)
    numbers = chosen - offsets[text[chosen]]
    bands = config.minhash.bands
    return pa.table(
        {
            "hash": hashes[chosen].ravel(),
            "order": np.repeat(order[text[chosen]], bands),
            "row": np.repeat(rows[text[chosen]], bands),
            "passage": np.repeat(numbers, bands),
        }
    )


def excess_passages(bands: pa.Table, config: Passages) -> pa.Table:
    """Passages to remove (row, passage): all but the first row's of a hash that more than `max_documents` rows have."""
    frame = pl.DataFrame(pl.from_arrow(bands)).sort("hash", "order", "row")
    frame = frame.with_columns(
        documents=pl.col("row").n_unique().over("hash"), first=pl.col("row").first().over("hash")
    )
    excess = frame.filter((pl.col("documents") > config.max_documents) & (pl.col("row") != pl.col("first")))
    return excess.select("row", "passage").unique().sort("row", "passage").to_arrow()


def without_passages(texts: Characters, unit: str, text: NDArray[np.int64], passages: NDArray[np.int64]) -> Characters:
    """Texts without some passages, given by the index of their text and their number in it."""
    bounds, offsets = cut_passages(texts, unit)
    removed = np.zeros(len(bounds) - 1, bool)
    removed[offsets[text] + passages] = True
    return without_pieces(texts, bounds, offsets, removed)


@njit(cache=True, nogil=True)
def _cut(codes, offsets, classes, sentences):
    num_rows = len(offsets) - 1
    bounds = np.empty(len(codes) + num_rows + 1, np.int64)
    passage_offsets = np.zeros(num_rows + 1, np.int64)
    count = 0
    for row in range(num_rows):
        stop = offsets[row + 1]
        in_break, ended, spaced = False, False, False
        for i in range(offsets[row], stop):
            code = codes[i]
            flags = classes[code]
            is_space = (flags & SPACE) != 0
            begins = i == offsets[row]
            if code == NEWLINE:
                begins |= not in_break
                in_break = True
            elif not is_space:
                # A closing quote belongs to the sentence before it, one after a space to the next.
                stays = (flags & (TERMINAL | QUOTE)) != 0 and not spaced and not _opens(code)
                begins |= in_break or (ended and not stays)
                in_break = False
            if begins:
                bounds[count] = i
                count += 1
                ended, spaced = False, False
            if is_space:
                spaced = True
            elif sentences and (flags & TERMINAL) != 0:
                follows = i + 1 == stop or code >= FIRST_WIDE or (classes[codes[i + 1]] & (SPACE | QUOTE)) != 0
                ended, spaced = ended or follows, False
        passage_offsets[row + 1] = count
    bounds[count] = len(codes)
    return bounds[: count + 1].copy(), passage_offsets


@njit(cache=True, nogil=True)
def _opens(code):
    """Quotes that are only ever opening ones: “ ‘ « 「 『 《."""
    return code in (0x201C, 0x2018, 0xAB, 0x300C, 0x300E, 0x300A)
