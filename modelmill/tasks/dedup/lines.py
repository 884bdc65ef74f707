"""Texts → lines that repeat across documents, counted over all of them, and texts without those lines."""

from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from modelmill.tasks.dedup.config import LineRule
from modelmill.tasks.dedup.hashing import code_hashes
from modelmill.tasks.dedup.normalise import normalised
from modelmill.tasks.text.flat import Characters

NEWLINE = 10


@dataclass(frozen=True)
class Lines:
    """Lines of several texts: those of text i are `offsets[i]` to `offsets[i + 1]`.

    bounds: where each line begins in the code points, one more at the end. hashes: of the line's normalised form
    (lower case, digits as 0, without punctuation). blank: lines of which nothing is left by that.
    """

    bounds: NDArray[np.int64]
    offsets: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    blank: NDArray[np.bool_]

    @property
    def texts(self) -> NDArray[np.int64]:
        """Index of the text that each line belongs to."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    @property
    def numbers(self) -> NDArray[np.int64]:
        """Number of each line in its text, from 0."""
        return np.arange(len(self.hashes)) - np.repeat(self.offsets[:-1], np.diff(self.offsets))


def text_lines(texts: Characters) -> Lines:
    """Cut texts at newlines and hash every line."""
    bounds, offsets = _cut(texts.codes, texts.offsets)
    plain = normalised(Characters(texts.codes, bounds), zero_digits=True)
    return Lines(bounds, offsets, code_hashes(plain.codes, plain.offsets), plain.lengths == 0)


def counted_lines(lines: Lines, buckets: NDArray[np.int64]) -> pa.Table:
    """How often each line occurs in a shard: bucket, hash, count. `buckets` has one entry a text."""
    table = pl.DataFrame({"bucket": buckets[lines.texts], "hash": lines.hashes}).filter(~lines.blank)
    return table.group_by("bucket", "hash").agg(count=pl.len().cast(pl.Int64)).sort("bucket", "hash").to_arrow()


def frequent_lines(counts: pa.Table, rule: LineRule) -> pa.Table:
    """Lines whose counts, summed over all shards, exceed the rule's: bucket, hash."""
    totals = pl.DataFrame(pl.from_arrow(counts)).group_by("bucket", "hash").agg(pl.col("count").sum())
    return (
        totals.filter(pl.col("count") > rule.max_per_bucket).select("bucket", "hash").sort("bucket", "hash").to_arrow()
    )


def edge_lines(lines: Lines, rule: LineRule, rows: NDArray[np.int64], order: NDArray[np.uint64]) -> pa.Table:
    """The first and last lines of each text that are not blank: hash, order (one number a text), row, line."""
    rank = np.cumsum(~lines.blank) - 1
    before = np.concatenate([[0], np.cumsum(~lines.blank)])[lines.offsets]
    texts = lines.texts
    from_start = rank - before[texts]
    from_end = before[texts + 1] - 1 - rank
    edge = ~lines.blank & ((from_start < rule.edge_lines) | (from_end < rule.edge_lines))
    chosen = texts[edge]
    return pa.table(
        {"hash": lines.hashes[edge], "order": order[chosen], "row": rows[chosen], "line": lines.numbers[edge]}
    )


def excess_lines(edges: pa.Table, rule: LineRule) -> pa.Table:
    """Occurrences after the first `max_occurrences` of each line, in the documents' order: row, line."""
    frame = pl.DataFrame(pl.from_arrow(edges)).sort("hash", "order", "row", "line")
    frame = frame.with_columns(number=pl.int_range(pl.len()).over("hash"))
    return frame.filter(pl.col("number") >= rule.max_occurrences).select("row", "line").sort("row", "line").to_arrow()


def without_lines(texts: Characters, lines: Lines, removed: NDArray[np.bool_]) -> Characters:
    """Texts without the lines marked in `removed`; a text that loses none stays as it is."""
    return without_pieces(texts, lines.bounds, lines.offsets, removed)


def without_pieces(
    texts: Characters, bounds: NDArray[np.int64], offsets: NDArray[np.int64], removed: NDArray[np.bool_]
) -> Characters:
    """Texts without the marked ones of the pieces that they are cut into (see `Lines` for bounds and offsets)."""
    return Characters(*_join(texts.codes, texts.offsets, bounds, offsets, removed))


@njit(cache=True, nogil=True)
def _cut(codes, offsets):
    """Beginning of every line (a line holds its newline), one more at the end, and line offsets per text."""
    num_rows = len(offsets) - 1
    bounds = np.empty(len(codes) + num_rows + 1, np.int64)
    line_offsets = np.zeros(num_rows + 1, np.int64)
    count = 0
    for row in range(num_rows):
        bounds[count] = offsets[row]
        count += 1
        for i in range(offsets[row], offsets[row + 1] - 1):
            if codes[i] == NEWLINE:
                bounds[count] = i + 1
                count += 1
        line_offsets[row + 1] = count
    bounds[count] = len(codes)
    return bounds[: count + 1].copy(), line_offsets


@njit(cache=True, nogil=True)
def _join(codes, offsets, bounds, line_offsets, removed):
    result = np.empty(len(codes), np.uint32)
    result_offsets = np.zeros(len(offsets), np.int64)
    count = 0
    for row in range(len(offsets) - 1):
        row_start, shortened = count, False
        for line in range(line_offsets[row], line_offsets[row + 1]):
            if removed[line]:
                shortened = True
                continue
            for i in range(bounds[line], bounds[line + 1]):
                result[count] = codes[i]
                count += 1
        # What is left of a shortened text does not end in the newlines that led to removed lines.
        while shortened and count > row_start and (result[count - 1] == NEWLINE or result[count - 1] == 32):
            count -= 1
        result_offsets[row + 1] = count
    return result[:count].copy(), result_offsets
