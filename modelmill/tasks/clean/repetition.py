"""Texts and their words → how much of each text repeats itself (Rae et al. 2021, table A1).

Counted as the published filter code counts: a paragraph, line or n-gram is duplicate from its second occurrence
on; duplicate n-grams are taken greedily from the left and do not overlap; shares are of the text's characters.
"""

from collections.abc import Sequence

import numpy as np
from numba import njit

from modelmill.tasks.clean.config import GopherRepetition
from modelmill.tasks.clean.traits import LanguageTraits
from modelmill.tasks.clean.verdict import Verdict, above, ratio
from modelmill.tasks.text.characters import SPACE, classes
from modelmill.tasks.text.flat import Characters
from modelmill.tasks.text.hashing import FACTOR, SEED
from modelmill.tasks.text.words import Words

PRIME = np.uint64(0x9E3779B97F4A7C15)
INVERSE_PRIME = np.uint64(pow(0x9E3779B97F4A7C15, -1, 2**64))
MIXER = np.uint64(0xBF58476D1CE4E5B9)
EMPTY = np.uint64(0)


def repetition_verdict(
    texts: Characters,
    words: Words,
    traits: Sequence[LanguageTraits],
    config: GopherRepetition,
    earlier: Verdict | None = None,
) -> Verdict:
    """Judge each text by its repeated paragraphs, lines and n-grams, after the checks of `earlier`. `traits` are those
    of each text's language.

    N-grams, which cost most, are counted only in texts that no check before them dropped.
    """
    verdict = Verdict(len(texts))
    if earlier is not None:
        verdict.include(earlier)
    lengths = texts.lengths
    verdict.drop(lengths == 0, "empty")
    parts = _duplicate_parts(texts.codes, texts.offsets, classes())
    for name, (total, duplicate, duplicate_characters) in zip(("paragraph", "line"), parts, strict=True):
        limit = getattr(config, f"max_duplicate_{name}s")
        verdict.drop(above(ratio(duplicate, total), limit), f"repetition_duplicate_{name}s")
        limit = getattr(config, f"max_duplicate_{name}_characters")
        verdict.drop(above(ratio(duplicate_characters, lengths), limit), f"repetition_duplicate_{name}_characters")
    factor = np.array([trait.top_ngrams for trait in traits])
    for size, limit in sorted(config.max_top_ngram_characters.items()):
        covered = _top_ngram_characters(words.starts, words.ends, words.hashes, words.offsets, size, verdict.kept)
        verdict.drop(ratio(covered, lengths) > limit * factor, f"repetition_top_{size}_gram")
    limits = sorted(config.max_duplicate_ngram_characters.items())
    sizes = np.array([size for size, _ in limits], np.int64)
    parts = _duplicate_ngram_characters(texts.codes, words.starts, words.ends, words.offsets, sizes, verdict.kept)
    factor = np.array([trait.duplicate_ngrams for trait in traits])
    for (size, limit), covered in zip(limits, parts, strict=True):
        verdict.drop(ratio(covered, lengths) > limit * factor, f"repetition_duplicate_{size}_grams")
    return verdict


@njit(cache=True, nogil=True)
def _slot(keys, key):
    """Where `key` lies in an open-addressing table of a power-of-two size, or the empty slot for it."""
    mask = np.uint64(len(keys) - 1)
    mixed = (key ^ (key >> np.uint64(31))) * MIXER
    slot = (mixed ^ (mixed >> np.uint64(29))) & mask
    while keys[slot] != EMPTY and keys[slot] != key:
        slot = (slot + np.uint64(1)) & mask
    return slot


@njit(cache=True, nogil=True)
def _table_size(count):
    size = 16
    while size < 2 * count:
        size *= 2
    return size


@njit(cache=True, nogil=True)
def _lines(codes, start, end, bounds, hashes):
    """Cut at runs of newlines → bounds (lines × 2) and hash of each line; their number."""
    count, position = 0, start
    while True:
        bounds[count, 0] = position
        value = SEED
        while position < end and codes[position] != 10:
            value = (value ^ np.uint64(codes[position])) * FACTOR
            position += 1
        bounds[count, 1] = position
        hashes[count] = value
        count += 1
        if position == end:
            return count
        while position < end and codes[position] == 10:
            position += 1


@njit(cache=True, nogil=True)
def _range_hash(codes, start, end):
    value = SEED
    for i in range(start, end):
        value = (value ^ np.uint64(codes[i])) * FACTOR
    return value


@njit(cache=True, nogil=True)
def _is_duplicate(keys, value, length):
    """Whether a part was seen before; it is from now on."""
    key = (value ^ np.uint64(length)) * PRIME | np.uint64(1)
    slot = _slot(keys, key)
    seen = keys[slot] == key
    keys[slot] = key
    return seen


@njit(cache=True, nogil=True)
def _duplicate_lines(bounds, hashes, keys):
    """Number of duplicate lines and of their characters."""
    duplicate, characters = 0, 0
    for line in range(len(bounds)):
        length = bounds[line, 1] - bounds[line, 0]
        if _is_duplicate(keys, hashes[line], length):
            duplicate += 1
            characters += length
    return duplicate, characters


@njit(cache=True, nogil=True)
def _duplicate_paragraphs(codes, start, end, bounds, hashes, keys):
    """Join the lines of `start` to `end` that one newline parts → number of paragraphs, of duplicates, and of their
    characters. A line that reaches beyond is cut."""
    total, duplicate, characters = 0, 0, 0
    begin, value = start, SEED
    for line in range(len(bounds)):
        first, last = max(bounds[line, 0], start), min(bounds[line, 1], end)
        if last < start or first > end:
            continue
        whole = first == bounds[line, 0] and last == bounds[line, 1]
        value = (value ^ (hashes[line] if whole else _range_hash(codes, first, last))) * PRIME
        value ^= value >> np.uint64(32)
        following = bounds[line + 1, 0] if line + 1 < len(bounds) else end
        if last == end or following > last + 1:
            total += 1
            if _is_duplicate(keys, value, last - begin):
                duplicate += 1
                characters += last - begin
            begin, value = following, SEED
    return total, duplicate, characters


@njit(cache=True, nogil=True)
def _duplicate_parts(codes, offsets, classes):
    """For paragraphs (of the stripped text) and lines: arrays of number, duplicates, characters in duplicates."""
    num_rows = len(offsets) - 1
    result = np.zeros((2, 3, num_rows), np.int64)
    for row in range(num_rows):
        start, end = offsets[row], offsets[row + 1]
        most = 2
        for i in range(start, end):
            most += codes[i] == 10
        bounds, hashes = np.empty((most, 2), np.int64), np.empty(most, np.uint64)
        count = _lines(codes, start, end, bounds, hashes)
        bounds, hashes = bounds[:count], hashes[:count]
        keys = np.zeros(_table_size(count), np.uint64)
        result[1, 0, row] = count
        result[1, 1, row], result[1, 2, row] = _duplicate_lines(bounds, hashes, keys)
        while start < end and classes[codes[start]] & SPACE:
            start += 1
        while end > start and classes[codes[end - 1]] & SPACE:
            end -= 1
        keys[:] = EMPTY
        paragraphs = _duplicate_paragraphs(codes, start, end, bounds, hashes, keys)
        result[0, 0, row], result[0, 1, row], result[0, 2, row] = paragraphs
    return result


@njit(cache=True, nogil=True)
def _top_ngram_characters(starts, ends, hashes, offsets, size, judged):
    """Characters (with one space between words) covered by the most frequent n-gram; the earliest wins a tie."""
    num_rows = len(offsets) - 1
    covered = np.zeros(num_rows, np.int64)
    for row in range(num_rows):
        first_word, count = offsets[row], offsets[row + 1] - offsets[row] - size + 1
        if count <= 0 or not judged[row]:
            continue
        table_size = _table_size(count)
        keys = np.zeros(table_size, np.uint64)
        counts = np.zeros(table_size, np.int32)
        firsts = np.zeros(table_size, np.int64)
        best = -1
        for i in range(first_word, first_word + count):
            key = np.uint64(size)
            for j in range(size):
                key = (key ^ hashes[i + j]) * PRIME
                key ^= key >> np.uint64(32)
            key |= np.uint64(1)
            slot = np.int64(_slot(keys, key))
            if keys[slot] == EMPTY:
                keys[slot] = key
                firsts[slot] = i
            counts[slot] += 1
            if (
                best < 0
                or counts[slot] > counts[best]
                or (counts[slot] == counts[best] and firsts[slot] < firsts[best])
            ):
                best = slot
        length = size - 1
        for j in range(firsts[best], firsts[best] + size):
            length += ends[j] - starts[j]
        covered[row] = length * counts[best]
    return covered


@njit(cache=True, nogil=True)
def _joined_hashes(codes, starts, ends, first, count):
    """Polynomial hash and length of the joined words up to each word, and the inverse of the power that it begins
    with: the hash of any n-gram is one subtraction and one multiplication."""
    prefix = np.zeros(count + 1, np.uint64)
    inverse = np.ones(count + 1, np.uint64)
    length = np.zeros(count + 1, np.int64)
    power = np.uint64(1)
    for i in range(count):
        value, unpower = prefix[i], inverse[i]
        for j in range(starts[first + i], ends[first + i]):
            value += (np.uint64(codes[j]) * MIXER + np.uint64(1)) * power
            power *= PRIME
            unpower *= INVERSE_PRIME
        prefix[i + 1] = value
        inverse[i + 1] = unpower
        length[i + 1] = length[i] + ends[first + i] - starts[first + i]
    return prefix, inverse, length


@njit(cache=True, nogil=True)
def _duplicate_ngram_characters(codes, starts, ends, offsets, sizes, judged):
    """Characters in n-grams seen before (sizes × rows; 0 for rows not to be judged).

    N-grams are compared by their words joined without a space.
    """
    num_rows = len(offsets) - 1
    covered = np.zeros((len(sizes), num_rows), np.int64)
    for row in range(num_rows):
        count = offsets[row + 1] - offsets[row]
        if not judged[row]:
            continue
        prefix, inverse, length = _joined_hashes(codes, starts, ends, offsets[row], count)
        keys = np.empty(_table_size(count), np.uint64)
        for number in range(len(sizes)):
            size = sizes[number]
            keys[:] = EMPTY
            i = 0
            while i < count - size + 1:
                key = ((prefix[i + size] - prefix[i]) * inverse[i]) | np.uint64(1)
                slot = _slot(keys, key)
                if keys[slot] == key:
                    covered[number, row] += length[i + size] - length[i]
                    i += size
                else:
                    keys[slot] = key
                    i += 1
    return covered
