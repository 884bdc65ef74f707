"""Suites and texts → which items of a suite lie in which documents, by overlap of word 8-grams (Llama 3 §5.1.4).

Both sides are split into the words of `words.py` (lower case, NFKC, punctuation dropped). A document holds an item when
at least the share `ratio` (T_D) of the item's words lies in 8-grams that occur in the document. An item of fewer than
eight words has no 8-gram: `exact.py` looks for it word by word.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
import polars as pl
import pyarrow as pa

from modelmill.tasks.curate.words import word_hashes
from modelmill.tasks.suites.reader import Suite, load_suite, suite_name, suite_path

NGRAM = 8
BY_GRAM, BY_WORDS = "8-gram", "exact"
FILTER_BITS = 22


@dataclass(frozen=True)
class SuiteIndex:
    """Where each 8-gram of a suite stands.

    suite: the suite itself, for names and ids.
    grams: sorted distinct 8-gram hashes, uint64 [num_grams].
    item, position: item and word position of each occurrence, grouped by gram; int64 [num_occurrences].
    borders: occurrences of gram g are borders[g]:borders[g + 1].
    words: number of words of each item, int64 [num_items].
    """

    suite: Suite
    ratio: float
    grams: np.ndarray
    item: np.ndarray
    position: np.ndarray
    borders: np.ndarray
    words: np.ndarray

    @property
    def checkable(self) -> np.ndarray:
        """Which items are long enough to be looked for."""
        return self.words >= NGRAM


def suite_index(name: str, ratio: float) -> SuiteIndex:
    """Read a suite, by name or path, and index its 8-grams."""
    suite = load_suite(name)
    hashes, offsets = word_hashes(pa.array([item.text for item in suite.items]))
    grams = ngram_hashes(hashes)
    words = np.diff(offsets)
    item = np.repeat(np.arange(len(words)), words)
    position = np.arange(len(hashes)) - offsets[item]
    whole = position + NGRAM <= words[item]  # grams that run into the next item are none of this suite's
    grams, item, position = grams[whole[: len(grams)]], item[whole], position[whole]
    order = np.argsort(grams, kind="stable")
    distinct, first = np.unique(grams[order], return_index=True)
    return SuiteIndex(suite, ratio, distinct, item[order], position[order], np.append(first, len(order)), words)


def found_grams(texts: pa.ChunkedArray, index: SuiteIndex, batch_rows: int = 512) -> tuple[np.ndarray, np.ndarray]:
    """Row and gram number of every distinct (document, 8-gram of the suite) pair, in order."""
    bitmap = np.zeros(1 << FILTER_BITS, bool)
    bitmap[index.grams >> np.uint64(64 - FILTER_BITS)] = True
    rows, grams = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for start in range(0, len(texts) if len(index.grams) else 0, batch_rows):
        hashes, offsets = word_hashes(texts.slice(start, batch_rows))
        at = _positions(hashes, offsets, bitmap, index.grams)
        number = np.searchsorted(index.grams, ngram_hashes(hashes)[at])
        row = np.searchsorted(offsets, at, side="right") - 1 + start
        pairs = np.unique(np.stack([row, number]), axis=1)
        rows.append(pairs[0])
        grams.append(pairs[1])
    return np.concatenate(rows), np.concatenate(grams)


def item_coverage(rows: np.ndarray, grams: np.ndarray, index: SuiteIndex) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, item and share of the item's words inside found 8-grams, for every pair that shares at least one 8-gram."""
    counts = np.diff(index.borders)[grams]
    row = np.repeat(rows, counts)
    ends = np.cumsum(counts)
    occurrence = np.arange(len(row)) - np.repeat(ends - counts, counts) + np.repeat(index.borders[grams], counts)
    item, position = index.item[occurrence], index.position[occurrence]
    order = np.lexsort((position, item, row))
    row, item, position = row[order], item[order], position[order]
    new = np.ones(len(row), bool)
    new[1:] = (row[1:] != row[:-1]) | (item[1:] != item[:-1])
    # Each 8-gram covers eight words, less those that the one before it has covered.
    covered = np.where(new, NGRAM, np.minimum(NGRAM, np.diff(position, prepend=0)))
    first = np.flatnonzero(new)
    total = np.add.reduceat(covered, first) if len(first) else np.empty(0)
    return row[first], item[first], total / index.words[item[first]]


def contaminated_rows(texts: pa.ChunkedArray, index: SuiteIndex) -> np.ndarray:
    """Sorted numbers of the texts that hold at least one item of the suite."""
    row, _, share = item_coverage(*found_grams(texts, index), index)
    return np.unique(row[share >= index.ratio])


def suite_overlaps(
    rows: np.ndarray, grams: np.ndarray, exact: tuple[np.ndarray, np.ndarray], index: SuiteIndex, number: int
) -> pa.Table:
    """Row, suite number, item id, overlap and match (8-gram or exact) of every item and document that share an 8-gram,
    and of those (`exact`: rows and items) where the item stands in the document word by word."""
    row, item, share = item_coverage(rows, grams, index)
    match = [BY_GRAM] * len(row) + [BY_WORDS] * len(exact[0])
    row, item = np.concatenate([row, exact[0]]), np.concatenate([item, exact[1]])
    ids = pa.array([each.id for each in index.suite.items], pa.string()).take(pa.array(item))
    overlap = np.append(share, np.ones(len(exact[0]))).astype(np.float32)
    suite = np.full(len(row), number, np.int64)
    return pa.table(
        {"row": row, "suite": suite, "item": ids, "overlap": overlap, "match": pa.array(match, pa.string())}
    )


def held_items(overlaps: pa.Table, suites: Sequence[tuple[str, float]], num_rows: int) -> pa.Table:
    """For each row the suite (its name), item, overlap and match for which it must go; nulls where it may stay.

    suites: name or path, and ratio. Of several suites the first counts, of its items the one that is there to the
    largest share; of its matches, the exact one.
    """
    ratios = pl.DataFrame(
        {
            "suite": range(len(suites)),
            "name": [suite_name(suite_path(name)) for name, _ in suites],
            "ratio": [ratio for _, ratio in suites],
        },
        schema={"suite": pl.Int64, "name": pl.String, "ratio": pl.Float32},
    )
    over = pl.DataFrame(overlaps).join(ratios, on="suite").filter(pl.col("overlap") >= pl.col("ratio"))
    order = ["row", "suite", pl.col("overlap").neg(), pl.col("match") != BY_WORDS, "item"]
    over = over.sort(*order).unique("row", keep="first", maintain_order=True)
    every = pl.DataFrame({"row": range(num_rows)}, schema={"row": pl.Int64})
    chosen = every.join(over, on="row", how="left", maintain_order="left")
    schema = pa.schema({"suite": pa.string(), "item": pa.string(), "overlap": pa.float32(), "match": pa.string()})
    return chosen.select(pl.col("name").alias("suite"), "item", "overlap", "match").to_arrow().cast(schema)


def contaminated_items(grams: np.ndarray, index: SuiteIndex) -> list[str]:
    """Ids of the items that these 8-grams (of a whole corpus, say) cover to the ratio, in the suite's order."""
    distinct = np.unique(grams)
    _, item, share = item_coverage(np.zeros(len(distinct), np.int64), distinct, index)
    return [index.suite.items[number].id for number in item[share >= index.ratio]]


@numba.njit(cache=True)
def ngram_hashes(words: np.ndarray) -> np.ndarray:
    """Hash of the 8-gram that begins at each word, uint64 [num_words - 7]; whoever calls minds the borders of texts."""
    grams = np.empty(max(len(words) - NGRAM + 1, 0), np.uint64)
    for start in range(len(grams)):
        value = np.uint64(0)
        for word in words[start : start + NGRAM]:
            value = (value ^ word) * np.uint64(0x9E3779B97F4A7C15)
            value ^= value >> np.uint64(29)
        value *= np.uint64(0xBF58476D1CE4E5B9)
        grams[start] = value ^ value >> np.uint64(32)
    return grams


@numba.njit(cache=True)
def _positions(words: np.ndarray, offsets: np.ndarray, bitmap: np.ndarray, grams: np.ndarray) -> np.ndarray:
    """Word positions at which an 8-gram of the suite begins that ends in the same document."""
    every = ngram_hashes(words)
    found = []
    for row in range(len(offsets) - 1):
        for start in range(offsets[row], offsets[row + 1] - NGRAM + 1):
            if bitmap[every[start] >> np.uint64(64 - FILTER_BITS)]:
                place = np.searchsorted(grams, every[start])
                if place < len(grams) and grams[place] == every[start]:
                    found.append(start)
    return np.array(found, dtype=np.int64)
