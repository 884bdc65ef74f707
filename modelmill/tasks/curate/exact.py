"""Suites and texts → which items stand in which texts word by word: as the whole text, as a line, or as some lines.

The second way of decontamination: Llama 3 (§5.2) takes out instructions by exact match with the prompts of test sets,
and an item of fewer than eight words has no 8-gram to be looked for. Both sides are compared by the words of
`words.py`, so case, punctuation and spaces do not count.
"""

from dataclasses import dataclass

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from modelmill.tasks.curate.words import Words, word_hashes
from modelmill.tasks.suites.reader import Suite

# A shorter line ("Answer:", "It depends.") says nothing about where it comes from.
MIN_WORDS = 3
FILTER_BITS = 20
BASE = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class ExactIndex:
    """What to look for: hashes of a suite's questions, alone and with their answers.

    hashes: sorted, distinct, uint64 [num_wanted]; item: for each the first item that it belongs to.
    num_lines: how many lines these texts have, distinct; num_words: the most words one has.
    possible: which items can be found this way.
    """

    hashes: np.ndarray
    item: np.ndarray
    num_lines: np.ndarray
    num_words: int
    possible: np.ndarray


def exact_index(suite: Suite) -> ExactIndex:
    """Index a suite. Questions that several items share ("Which is right?") are looked for with their answers only."""
    texts = [item.question for item in suite.items] + [item.text for item in suite.items]
    item = np.tile(np.arange(len(suite.items)), 2)
    words = word_hashes(pa.array(texts, pa.large_string()))
    counts = np.diff(words.offsets)
    prefix, powers = _prefixes(words.hashes, int(counts.max(initial=0)))
    hashes = _stretches(prefix, powers, words.offsets)
    _, place, times = np.unique(hashes[: len(suite.items)], return_inverse=True, return_counts=True)
    own = np.concatenate([times[place] == 1, np.ones(len(suite.items), bool)])
    # An item without an answer is its question: what holds of that holds of the whole.
    alone = hashes[: len(suite.items)] == hashes[len(suite.items) :]
    own[len(suite.items) :] = ~alone | own[: len(suite.items)]
    wanted = np.flatnonzero(own & (counts >= MIN_WORDS))
    distinct, first = np.unique(hashes[wanted], return_index=True)
    lines = [sum(any(map(str.isalnum, line)) for line in texts[number].split("\n")) for number in wanted]
    possible = np.zeros(len(suite.items), bool)
    possible[item[wanted]] = True
    return ExactIndex(
        distinct,
        item[wanted[first]],
        np.unique(np.array(lines, np.int64)),
        int(counts[wanted].max(initial=0)),
        possible,
    )


def exact_matches(texts: pa.ChunkedArray, index: ExactIndex, batch_rows: int = 512) -> tuple[np.ndarray, np.ndarray]:
    """Row and item of every text that holds an item word by word, in order and distinct."""
    bitmap = np.zeros(1 << FILTER_BITS, bool)
    bitmap[index.hashes >> np.uint64(64 - FILTER_BITS)] = True
    found = [np.empty((2, 0), np.int64)]
    for start in range(0, len(texts) if len(index.hashes) else 0, batch_rows):
        words, lines = _line_words(texts.slice(start, batch_rows))
        prefix, powers = _prefixes(words.hashes, index.num_words)
        row, place = _find(prefix, powers, words.offsets, lines, index.num_lines, index.num_words, bitmap, index.hashes)
        found.append(np.stack([row + start, index.item[place]]))
    pairs = np.unique(np.concatenate(found, axis=1), axis=1)
    return pairs[0], pairs[1]


def _line_words(texts: pa.ChunkedArray) -> tuple[Words, np.ndarray]:
    """Words by line, of lines with at least one, and which lines belong to each text."""
    listed = pc.split_pattern(pc.fill_null(texts.combine_chunks(), ""), "\n")  # pyright: ignore[reportAttributeAccessIssue]
    hashes, offsets = word_hashes(listed.flatten())
    borders = np.concatenate([[0], np.cumsum(pc.list_value_length(listed).to_numpy())])  # pyright: ignore[reportAttributeAccessIssue]
    full = np.diff(offsets) > 0
    before = np.concatenate([[0], np.cumsum(full)])
    return Words(hashes, np.append(offsets[:-1][full], offsets[-1])), before[borders]


@numba.njit(cache=True)
def _prefixes(hashes: np.ndarray, num_words: int):
    """Polynomial hash of the words up to each one, and powers of its base: any stretch's hash is one product away."""
    prefix, powers = np.zeros(len(hashes) + 1, np.uint64), np.ones(num_words + 1, np.uint64)
    for word in range(len(hashes)):
        prefix[word + 1] = prefix[word] * BASE + hashes[word]
    for number in range(num_words):
        powers[number + 1] = powers[number] * BASE
    return prefix, powers


@numba.njit(cache=True)
def _stretch(prefix: np.ndarray, powers: np.ndarray, start, stop):
    value = prefix[stop] - prefix[start] * powers[stop - start]
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    return value ^ (value >> np.uint64(31))


@numba.njit(cache=True)
def _stretches(prefix: np.ndarray, powers: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    hashes = np.empty(len(offsets) - 1, np.uint64)
    for number in range(len(hashes)):
        hashes[number] = _stretch(prefix, powers, offsets[number], offsets[number + 1])
    return hashes


@numba.njit(cache=True)
def _find(
    prefix: np.ndarray, powers: np.ndarray, offsets: np.ndarray, lines: np.ndarray, num_lines: np.ndarray,
    num_words: int, bitmap: np.ndarray, wanted: np.ndarray,
):  # fmt: skip
    """Row and place in `wanted` of every run of lines, and every whole text, that is wanted."""
    rows, places = [np.int64(0) for _ in range(0)], [np.int64(0) for _ in range(0)]
    for row in range(len(lines) - 1):
        first, last = lines[row], lines[row + 1]
        for start in range(first, last):
            for number in range(len(num_lines) + 1):
                whole = number == len(num_lines)
                if whole and start > first:
                    continue
                stop = last if whole else start + num_lines[number]
                if stop > last or offsets[stop] - offsets[start] > num_words:
                    continue
                value = _stretch(prefix, powers, offsets[start], offsets[stop])
                if bitmap[value >> np.uint64(64 - FILTER_BITS)]:
                    place = np.searchsorted(wanted, value)
                    if place < len(wanted) and wanted[place] == value:
                        rows.append(np.int64(row))
                        places.append(np.int64(place))
    return np.array(rows, dtype=np.int64), np.array(places, dtype=np.int64)
