"""Names in class and id attributes, and words of blocks → hashes into the tables of two linear models."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from modelmill.tasks.ingest.main_text.blocks import Blocks
from modelmill.tasks.ingest.main_text.code_points import code_point
from modelmill.tasks.ingest.main_text.parse import Markup
from modelmill.tasks.ingest.main_text.states import IN_HEADING, SKIPPED
from modelmill.tasks.text.characters import DIGIT, LETTER, SINGLE, classes

TABLE_BITS = 16
_MASK = np.uint64((1 << TABLE_BITS) - 1)
_OFFSET, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
_MAX_WORDS = 60


def name_hashes(page: Markup) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """Hashes of each element's names: offsets (elements + 1) and hashes.

    Every name as a whole and each of its parts between hyphens, underscores and changes of case, with its tag.
    """
    return _name_hashes(page.content, page.tag, page.names)


def word_hashes(page: Markup, blocks: Blocks) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """Hashes of the first and last words of each block: offsets (blocks + 1) and hashes."""
    return _word_hashes(
        page.content, page.run_start, page.run_end, page.run_element, blocks.state, blocks.first, blocks.last, classes()
    )


def headings_above(page: Markup, blocks: Blocks) -> NDArray[np.int64]:
    """For each block the number of the heading before it, or -1."""
    is_heading = (blocks.state[blocks.inner] & IN_HEADING) != 0
    positions = np.where(is_heading, np.arange(len(blocks)), -1)
    return np.concatenate([[-1], np.maximum.accumulate(positions)[:-1]]).astype(np.int64) if len(blocks) else positions


@njit(cache=True, nogil=True)
def chain_scores(parent, offsets, hashes, weights, inner):
    """Sum of the weights of all names on the way from the document to each block, over the root of their number."""
    count = len(parent)
    sums, numbers = np.zeros(count, np.float32), np.zeros(count, np.float32)
    for element in range(count):
        own, size = np.float32(0), offsets[element + 1] - offsets[element]
        for i in range(offsets[element], offsets[element + 1]):
            own += weights[hashes[i]]
        if element:
            sums[element], numbers[element] = sums[parent[element]], numbers[parent[element]]
        sums[element] += own
        numbers[element] += size
    scores = np.zeros(len(inner), np.float32)
    for block in range(len(inner)):
        scores[block] = sums[inner[block]] / np.sqrt(max(numbers[inner[block]], np.float32(1)))
    return scores


@njit(cache=True, nogil=True)
def text_scores(offsets, hashes, above, weights, heading_weights):
    """Sums of the weights of each block's words and of the heading's above it, each over the root of their number."""
    count = len(offsets) - 1
    scores = np.zeros(count, np.float32)
    for block in range(count):
        own = np.float32(0)
        for i in range(offsets[block], offsets[block + 1]):
            own += weights[hashes[i]]
        scores[block] = own / np.sqrt(np.float32(max(offsets[block + 1] - offsets[block], 1)))
        heading = above[block]
        if heading >= 0:
            own = np.float32(0)
            for i in range(offsets[heading], offsets[heading + 1]):
                own += heading_weights[hashes[i]]
            scores[block] += own / np.sqrt(np.float32(max(offsets[heading + 1] - offsets[heading], 1)))
    return scores


@njit(cache=True, nogil=True)
def _folded(value, salt):
    value = (value ^ np.uint64(salt)) * _PRIME
    value ^= value >> np.uint64(32)
    return np.uint32((value ^ (value >> np.uint64(16))) & _MASK)


@njit(cache=True, nogil=True)
def _name_hashes(content, tag, names):
    count = len(tag)
    size = count
    for element in range(count):
        size += names[element, 1] - names[element, 0] + names[element, 3] - names[element, 2] + 2
    offsets, hashes, found = np.zeros(count + 1, np.int64), np.zeros(size, np.uint32), 0
    for element in range(count):
        hashes[found] = _folded(np.uint64(tag[element]), 7)
        found += 1
        for kind in range(2):
            start, stop = names[element, 2 * kind], names[element, 2 * kind + 1]
            whole, part, length, part_length, parts = _OFFSET, _OFFSET, 0, 0, 0
            previous_lower = False
            for i in range(start, stop + 1):
                byte = content[i] if i < stop else np.uint8(32)
                letter = 97 <= (byte | 32) <= 122 or byte >= 128
                upper = 65 <= byte <= 90
                ends_name = byte == 32 or 9 <= byte <= 13
                if part_length and (not letter or (upper and previous_lower)):
                    if part_length > 1:
                        hashes[found] = _folded(part, 1)
                        found += 1
                        parts += 1
                    part, part_length = _OFFSET, 0
                if ends_name:
                    if length and parts > 1:
                        hashes[found] = _folded(whole, 2 + kind)
                        found += 1
                    whole, length, parts = _OFFSET, 0, 0
                elif not 48 <= byte <= 57:
                    lower = np.uint64(byte | 32 if upper else byte)
                    whole = (whole ^ lower) * _PRIME
                    length += 1
                    if letter:
                        part = (part ^ lower) * _PRIME
                        part_length += 1
                previous_lower = 97 <= byte <= 122
        offsets[element + 1] = found
    return offsets, hashes[:found].copy()


@njit(cache=True, nogil=True)
def _word_hashes(content, run_start, run_end, run_element, state, first, last, classes):
    count = len(first)
    offsets = np.zeros(count + 1, np.int64)
    hashes = np.zeros(count * 2 * _MAX_WORDS, np.uint32)
    found = 0
    for block in range(count):
        words = 0
        value, length = _OFFSET, 0
        for run in range(first[block], last[block]):
            if state[run_element[run]] & SKIPPED:
                continue
            position, end = run_start[run], run_end[run]
            while position <= end:
                code, of_code = np.int64(32), np.uint16(0)
                if position < end:
                    code, position = code_point(content, position, end)
                    of_code = classes[code]
                else:
                    position += 1
                is_word = of_code & LETTER != 0
                single = of_code & SINGLE != 0
                if length and (not is_word or single):
                    if words < 2 * _MAX_WORDS:
                        hashes[found] = _folded(value, 5)
                        found += 1
                    words += 1
                    value, length = _OFFSET, 0
                if of_code & DIGIT and not words:
                    value, length = _OFFSET, 0
                if is_word:
                    lower = code | 32 if 65 <= code <= 90 else code
                    value = (value ^ np.uint64(lower)) * _PRIME
                    length += 1
                    if single:
                        if words < 2 * _MAX_WORDS:
                            hashes[found] = _folded(value, 5)
                            found += 1
                        words += 1
                        value, length = _OFFSET, 0
        offsets[block + 1] = found
    return offsets, hashes[:found].copy()
