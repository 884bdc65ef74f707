"""Texts → texts without lines of page furniture (RefinedWeb) and of repeated n-grams (Llama 3), and what was lost."""

import functools
from importlib import resources

import numpy as np
import polars as pl
from numba import njit
from numpy.typing import NDArray

from modelmill.tasks.clean.config import RefinedWeb, RepeatedLines
from modelmill.tasks.clean.verdict import Verdict, above, ratio
from modelmill.tasks.text.characters import DIGIT, LETTER, LOWER, PUNCTUATION, SPACE, UPPER, classes
from modelmill.tasks.text.flat import Characters, string_array
from modelmill.tasks.text.words import Words

PRIME = np.uint64(0x9E3779B97F4A7C15)


def refinedweb_lines(texts: Characters, config: RefinedWeb) -> tuple[Characters, Verdict]:
    """Remove lines of page furniture; drop pages of which that takes more words than the recipe allows.

    A line goes that is mostly upper case, only numerals, a counter ("3 likes"), a single word, or short with a phrase
    of navigation in it (Penedo et al. 2023, appendix G.2, which edits the last kind; here the whole line goes).
    """
    starts, ends, offsets = _line_bounds(texts.codes, texts.offsets)
    words, letters, upper, numerals = _line_facts(texts.codes, starts, ends, classes())
    removed = numerals & (words > 0) if config.remove_numerals else np.zeros(len(starts), bool)
    if config.remove_single_words:
        removed |= words == 1
    removed |= (letters > 0) & above(ratio(upper, letters), config.max_upper_case)
    short = np.flatnonzero((words > 0) & (words <= config.furniture_words) & ~removed)
    if config.remove_furniture and len(short):
        removed[short] = _is_furniture(texts, starts[short], ends[short])
    edited = _without(texts, starts, ends, offsets, removed)
    verdict = Verdict(len(texts))
    lost = _row_sums(np.where(removed, words, 0), offsets)
    verdict.drop(above(ratio(lost, _row_sums(words, offsets)), config.max_removed_words), "refinedweb_removed_words")
    return edited, verdict


def without_repeated_lines(texts: Characters, words: Words, config: RepeatedLines) -> Characters:
    """Remove lines whose words mostly lie in n-grams that earlier lines of the text have, such as a log's.

    The duplicated n-gram coverage of Llama 3 (section 3.1.1, no values published), which line deduplication cannot do:
    each such line is different from all others. Words are compared without their digits, which count up in logs.
    """
    starts, ends, offsets = _line_bounds(texts.codes, texts.offsets)
    covered, total = _coverage(
        texts.codes, starts, ends, offsets, words.starts, words.ends, words.offsets, classes(), config.ngram
    )
    removed = (total >= config.min_words) & (ratio(covered, total) > config.max_coverage)
    return _without(texts, starts, ends, offsets, removed)


@functools.cache
def _furniture() -> str:
    text = resources.files("modelmill.tasks.clean").joinpath("data/line_furniture.txt").read_text(encoding="utf-8")
    return "|".join(line for line in text.splitlines() if line and not line.startswith("#"))


def _is_furniture(texts: Characters, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.bool_]:
    lines = _without(texts, starts, ends, np.arange(len(starts) + 1), np.zeros(len(starts), bool))
    found = pl.Series(pl.from_arrow(string_array(lines))).cast(pl.String).str.strip_chars()
    return found.str.contains(f"(?i:{_furniture()})").to_numpy()


def _row_sums(values: NDArray, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.diff(np.concatenate([[0], np.cumsum(values)])[offsets])


def _without(
    texts: Characters,
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    offsets: NDArray[np.int64],
    removed: NDArray[np.bool_],
) -> Characters:
    return Characters(*_kept_lines(texts.codes, starts, ends, offsets, removed))


@njit(cache=True, nogil=True)
def _line_bounds(codes, offsets):
    """Where each line begins and ends, and which lines each row has."""
    num_rows = len(offsets) - 1
    count = num_rows
    for i in range(offsets[0], offsets[-1]):
        count += codes[i] == 10
    starts = np.empty(count, np.int64)
    ends = np.empty(count, np.int64)
    line_offsets = np.zeros(num_rows + 1, np.int64)
    line = 0
    for row in range(num_rows):
        starts[line] = offsets[row]
        for i in range(offsets[row], offsets[row + 1]):
            if codes[i] == 10:
                ends[line] = i
                line += 1
                starts[line] = i + 1
        ends[line] = offsets[row + 1]
        line += 1
        line_offsets[row + 1] = line
    return starts, ends, line_offsets


@njit(cache=True, nogil=True)
def _line_facts(codes, starts, ends, classes):
    """Per line: words between spaces, letters that have case, upper-case ones, and whether all but signs are digits."""
    words, letters, upper = np.zeros((3, len(starts)), np.int64)
    numerals = np.zeros(len(starts), np.bool_)
    for line in range(len(starts)):
        in_word, others, digits = False, 0, 0
        for i in range(starts[line], ends[line]):
            flags = classes[codes[i]]
            space = flags & SPACE != 0
            words[line] += not space and not in_word
            in_word = not space
            cased = flags & LETTER != 0 and (flags & UPPER != 0) != (flags & LOWER != 0)
            letters[line] += cased
            upper[line] += cased and flags & UPPER != 0
            digits += flags & DIGIT != 0
            others += not space and flags & (DIGIT | PUNCTUATION) == 0
        numerals[line] = digits > 0 and others == 0
    return words, letters, upper, numerals


@njit(cache=True, nogil=True)
def _kept_lines(codes, starts, ends, offsets, removed):
    """Codes and row offsets of the lines that stay, joined by newlines."""
    num_rows = len(offsets) - 1
    kept = np.empty(len(codes) + len(starts), np.uint32)
    kept_offsets = np.zeros(num_rows + 1, np.int64)
    count = 0
    for row in range(num_rows):
        begun = False
        for line in range(offsets[row], offsets[row + 1]):
            if removed[line]:
                continue
            if begun:
                kept[count] = 10
                count += 1
            begun = True
            length = ends[line] - starts[line]
            kept[count : count + length] = codes[starts[line] : ends[line]]
            count += length
        kept_offsets[row + 1] = count
    return kept[:count].copy(), kept_offsets


@njit(cache=True, nogil=True)
def _coverage(codes, starts, ends, offsets, word_starts, word_ends, word_offsets, classes, size):
    """Per line: words in n-grams that lines before it have, and all its words."""
    covered, total = np.zeros((2, len(starts)), np.int64)
    for row in range(len(offsets) - 1):
        first, last = word_offsets[row], word_offsets[row + 1]
        hashes = np.zeros(last - first, np.uint64)
        for word in range(first, last):
            value = np.uint64(1)
            for i in range(word_starts[word], word_ends[word]):
                if classes[codes[i]] & DIGIT == 0:
                    value = (value ^ np.uint64(codes[i])) * PRIME
                    value ^= value >> np.uint64(32)
            hashes[word - first] = value
        seen = set([np.uint64(0)])  # numba infers the element's type from it
        word = 0
        for line in range(offsets[row], offsets[row + 1]):
            begin = word
            while word < last - first and word_starts[first + word] < ends[line]:
                word += 1
            total[line] = word - begin
            reached = begin
            for i in range(begin, word - size + 1):
                key = np.uint64(size)
                for j in range(i, i + size):
                    key = (key ^ hashes[j]) * PRIME
                    key ^= key >> np.uint64(29)
                if key in seen:
                    covered[line] += i + size - max(i, reached)
                    reached = i + size
            for i in range(begin, word - size + 1):
                key = np.uint64(size)
                for j in range(i, i + size):
                    key = (key ^ hashes[j]) * PRIME
                    key ^= key >> np.uint64(29)
                seen.add(key)
    return covered, total
