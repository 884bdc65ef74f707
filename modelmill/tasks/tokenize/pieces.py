"""Texts → the pieces of `vocabulary.PIECES`, each as the number of a distinct piece: merging then runs once for each.

A corpus repeats its pieces: 40 MB of documentation are 9 million pieces, of which 1 % are distinct. Cutting by a
compiled scanner and merging distinct pieces only gives the library's ids at many times its speed. What is a letter, a
number or a space is asked of the library's own regular expressions, so both cut alike whatever their Unicode version.
"""

import functools
from typing import NamedTuple

import numba
import numpy as np
from tokenizers import Regex, pre_tokenizers

from modelmill.tasks.tokenize.vocabulary import PIECES

OTHER, LETTER, NUMBER, SPACE, LINE_END = 0, 1, 2, 3, 4
NUM_CODE_POINTS = 0x110000


class Pieces(NamedTuple):
    """Pieces of all texts, end to end.

    number: for each piece, which distinct piece it is; int32 [num_pieces].
    borders: pieces of text t are borders[t]:borders[t + 1].
    starts, ends: bytes of each distinct piece's first occurrence.
    """

    number: np.ndarray
    borders: np.ndarray
    starts: np.ndarray
    ends: np.ndarray


def split_pieces(data: np.ndarray, offsets: np.ndarray) -> Pieces:
    """Cut valid UTF-8: text t is bytes offsets[t]:offsets[t + 1] of the uint8 array `data`."""
    seen = np.zeros(NUM_CODE_POINTS, bool)
    _mark_seen(data[offsets[0] : offsets[-1]], seen)
    classes = character_classes(seen)
    borders = np.zeros(len(offsets), np.int64)
    _count_pieces(data, offsets, classes, borders)
    np.cumsum(borders, out=borders)
    number = np.empty(borders[-1], np.int32)
    ends = np.empty(borders[-1], np.int64)
    _mark_pieces(data, offsets, classes, borders, ends)
    first_starts, first_ends = _number_pieces(data, offsets, borders, ends, number)
    return Pieces(number, borders, first_starts, first_ends)


def piece_splitter() -> pre_tokenizers.PreTokenizer:
    """The same cut as part of a tokenizer of the library; then bytes become the characters that stand for them."""
    split = pre_tokenizers.Split(Regex(PIECES), "isolated")
    return pre_tokenizers.Sequence([split, byte_characters()])


def byte_characters() -> pre_tokenizers.PreTokenizer:
    """Bytes to the characters that stand for them, without cutting."""
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


@functools.cache
def _known_classes() -> tuple[np.ndarray, np.ndarray]:
    """Class of each code point that was asked for so far, and which those are; uint8 and bool [NUM_CODE_POINTS]."""
    return np.zeros(NUM_CODE_POINTS, np.uint8), np.zeros(NUM_CODE_POINTS, bool)


@functools.cache
def _class_splitters() -> list[tuple[int, pre_tokenizers.Split]]:
    """For each class, a splitter that leaves only what is outside of it; line ends are space too, so they come last."""
    patterns = {LETTER: r"\p{L}", NUMBER: r"\p{N}", SPACE: r"\s", LINE_END: r"[\r\n]"}
    return [(number, pre_tokenizers.Split(Regex(pattern), "removed")) for number, pattern in patterns.items()]


def character_classes(seen: np.ndarray) -> np.ndarray:
    """Class of every code point marked in `seen` as the tokenizers library sees it, uint8 [NUM_CODE_POINTS].

    Only what occurs is asked for: all of Unicode would take the library seconds.
    """
    classes, known = _known_classes()
    points = np.flatnonzero(seen & ~known)
    text = "".join(map(chr, points))
    for number, outside in _class_splitters():
        inside = np.ones(len(points), bool)
        for _, (start, end) in outside.pre_tokenize_str(text):
            inside[start:end] = False
        classes[points[inside]] = number
    known[points] = True
    return classes


@numba.njit(cache=True, inline="always")
def _step(data, position):
    """Code point at `position`, and where the next one begins."""
    lead = np.int64(data[position])
    if lead < 0x80:
        return lead, position + 1
    if lead < 0xE0:
        return (lead & 0x1F) << 6 | np.int64(data[position + 1]) & 0x3F, position + 2
    if lead < 0xF0:
        high = (lead & 0x0F) << 12 | (np.int64(data[position + 1]) & 0x3F) << 6
        return high | np.int64(data[position + 2]) & 0x3F, position + 3
    high = (lead & 0x07) << 18 | (np.int64(data[position + 1]) & 0x3F) << 12
    return high | (np.int64(data[position + 2]) & 0x3F) << 6 | np.int64(data[position + 3]) & 0x3F, position + 4


@numba.njit(cache=True)
def _mark_seen(data, seen):
    position = 0
    while position < len(data):
        point, position = _step(data, position)
        seen[point] = True


@numba.njit(cache=True, inline="always")
def _run_end(data, position, end, classes, wanted):
    """End of the run of characters of one class that begins at `position`."""
    while position < end:
        point, after = _step(data, position)
        if classes[point] != wanted:
            break
        position = after
    return position


@numba.njit(cache=True)
def _contraction_end(data, position, end):
    """End of 's, 'll and so on, whose apostrophe is at `position`; 0 if there is none."""
    if position + 1 >= end:
        return 0
    first = data[position + 1] | 0x20
    if first == 115 or first == 100 or first == 109 or first == 116:  # s d m t
        return position + 2
    if position + 2 >= end:
        return 0
    second = data[position + 2] | 0x20
    is_ll = first == 108 and second == 108
    is_ve_or_re = (first == 118 or first == 114) and second == 101
    return position + 3 if is_ll or is_ve_or_re else 0


@numba.njit(cache=True)
def _space_end(data, position, end, classes):
    """End of a piece of space that begins at `position`: up to the last line end, or all but the last character."""
    after_line_end = last = stop = position
    while stop < end:
        point, after = _step(data, stop)
        if classes[point] < SPACE:
            break
        if classes[point] == LINE_END:
            after_line_end = after
        last, stop = stop, after
    if after_line_end > position:
        return after_line_end
    return stop if stop == end or last == position else last


@numba.njit(cache=True)
def _piece_end(data, position, end, classes):
    """End of the piece that begins at `position`: the alternatives of PIECES in their order."""
    point, after = _step(data, position)
    kind = classes[point]
    if kind == LETTER:
        return _run_end(data, after, end, classes, LETTER)
    if kind == NUMBER:
        return after
    if point == 39:
        contraction = _contraction_end(data, position, end)
        if contraction:
            return contraction
    following = classes[_step(data, after)[0]] if after < end else SPACE
    if kind != LINE_END and following == LETTER:
        return _run_end(data, after, end, classes, LETTER)
    if kind == OTHER or (point == 32 and following == OTHER):
        return _run_end(data, _run_end(data, after, end, classes, OTHER), end, classes, LINE_END)
    return _space_end(data, position, end, classes)


@numba.njit(cache=True)
def _count_pieces(data: np.ndarray, offsets: np.ndarray, classes: np.ndarray, counts: np.ndarray) -> None:
    for row in range(len(offsets) - 1):
        position = offsets[row]
        while position < offsets[row + 1]:
            position = _piece_end(data, position, offsets[row + 1], classes)
            counts[row + 1] += 1


@numba.njit(cache=True)
def _mark_pieces(
    data: np.ndarray, offsets: np.ndarray, classes: np.ndarray, borders: np.ndarray, ends: np.ndarray
) -> None:
    for row in range(len(offsets) - 1):
        position = offsets[row]
        for piece in range(borders[row], borders[row + 1]):
            position = _piece_end(data, position, offsets[row + 1], classes)
            ends[piece] = position


@numba.njit(cache=True)
def _number_pieces(
    data: np.ndarray,
    offsets: np.ndarray,
    borders: np.ndarray,
    ends: np.ndarray,
    number: np.ndarray,
):
    """Fill `number`; returns first and last byte of each distinct piece. Open addressing, at most half full."""
    slots = np.full(1 << 16, -1, np.int32)
    hashes = np.empty(1 << 15, np.uint64)
    starts = np.empty(1 << 15, np.int64)
    lengths = np.empty(1 << 15, np.int64)
    distinct = 0
    for row in range(len(offsets) - 1):
        start = offsets[row]
        for piece in range(borders[row], borders[row + 1]):
            length = ends[piece] - start
            value = _piece_hash(data, start, length)
            slot = np.int64(value & np.uint64(len(slots) - 1))
            while slots[slot] >= 0:
                known = slots[slot]
                if hashes[known] == value and lengths[known] == length and _same(data, starts[known], start, length):
                    break
                slot = (slot + 1) & (len(slots) - 1)
            if slots[slot] < 0:
                if distinct == len(hashes):
                    hashes, starts, lengths = _doubled(hashes), _doubled(starts), _doubled(lengths)
                    slots = _slots(hashes[:distinct], 2 * len(slots))
                    slot = _free_slot(slots, value)
                slots[slot] = distinct
                hashes[distinct], starts[distinct], lengths[distinct] = value, start, length
                distinct += 1
            number[piece] = slots[slot]
            start = ends[piece]
    return starts[:distinct].copy(), starts[:distinct] + lengths[:distinct]


@numba.njit(cache=True, inline="always")
def _piece_hash(data, start, length):
    value = np.uint64(0xCBF29CE484222325)
    for byte in range(start, start + length):
        value = (value ^ np.uint64(data[byte])) * np.uint64(0x100000001B3)
    return value ^ value >> np.uint64(32)


@numba.njit(cache=True, inline="always")
def _same(data, first, second, length):
    index = 0
    while index < length and data[first + index] == data[second + index]:
        index += 1
    return index == length


@numba.njit(cache=True)
def _doubled(array):
    return np.concatenate((array, np.empty_like(array)))


@numba.njit(cache=True)
def _free_slot(slots, value):
    slot = np.int64(value & np.uint64(len(slots) - 1))
    while slots[slot] >= 0:
        slot = (slot + 1) & (len(slots) - 1)
    return slot


@numba.njit(cache=True)
def _slots(hashes, size):
    slots = np.full(size, -1, np.int32)
    for number in range(len(hashes)):
        slots[_free_slot(slots, hashes[number])] = number
    return slots
