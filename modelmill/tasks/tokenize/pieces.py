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
    borders: pieces of text t are borders[t]:borders[t + 1]; int64.
    starts, ends: bytes of each distinct piece's first occurrence; int64.
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
    number = np.empty(offsets[-1] - offsets[0], np.int32)  # no piece is empty; pages never written cost nothing
    starts, ends = _number_pieces(data, offsets, classes, borders, number)
    return Pieces(number[: borders[-1]], borders, starts, ends)


def join_pieces(pieces: Pieces, tokens: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of all texts, and the borders between the texts; distinct piece n is tokens[offsets[n]:offsets[n + 1]]."""
    borders = np.zeros(len(pieces.borders), np.int64)
    _measure_rows(pieces.number, pieces.borders, offsets, borders)
    joined = np.empty(borders[-1], tokens.dtype)
    _copy_tokens(pieces.number, tokens, offsets, joined)
    return joined, borders


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


@numba.njit(cache=True, nogil=True)
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


@numba.njit(cache=True, nogil=True)
def _mark_seen(data, seen):
    position = 0
    while position < len(data):
        point, position = _step(data, position)
        seen[point] = True


@numba.njit(cache=True, nogil=True)
def _run_end(data, position, end, classes, wanted):
    """End of the run of characters of one class that begins at `position`."""
    while position < end:
        point, after = _step(data, position)
        if classes[point] != wanted:
            break
        position = after
    return position


@numba.njit(cache=True, nogil=True)
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


@numba.njit(cache=True, nogil=True)
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


@numba.njit(cache=True, nogil=True)
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


@numba.njit(cache=True, nogil=True)
def _number_pieces(data, offsets, classes, borders, number):
    """Fill `borders` and `number`; returns first and last byte of each distinct piece.

    The table has open addressing and grows with what is distinct: one sized for all pieces would miss every cache.
    """
    starts, ends = np.empty(1 << 12, np.int64), np.empty(1 << 12, np.int64)
    hashes = np.empty(1 << 12, np.uint64)
    slots = np.full(1 << 13, -1, np.int32)
    distinct = piece = 0
    for row in range(len(offsets) - 1):
        start = offsets[row]
        while start < offsets[row + 1]:
            end = _piece_end(data, start, offsets[row + 1], classes)
            value = np.uint64(0xCBF29CE484222325)
            for byte in range(start, end):
                value = (value ^ np.uint64(data[byte])) * np.uint64(0x100000001B3)
            value ^= value >> np.uint64(32)
            slot = np.int64(value & np.uint64(len(slots) - 1))
            while slots[slot] >= 0:
                known = slots[slot]
                if hashes[known] == value and _same_bytes(data, starts[known], ends[known], start, end):
                    break
                slot = (slot + 1) & (len(slots) - 1)
            if slots[slot] < 0:
                slots[slot] = distinct
                starts[distinct], ends[distinct], hashes[distinct] = start, end, value
                distinct += 1
            number[piece] = slots[slot]
            piece += 1
            start = end
            if 2 * distinct == len(slots):
                starts, ends = np.append(starts, starts), np.append(ends, ends)
                hashes = np.append(hashes, hashes)
                slots = _filled_slots(hashes[:distinct], 2 * len(slots))
        borders[row + 1] = piece
    return starts[:distinct], ends[:distinct]


@numba.njit(cache=True, nogil=True)
def _same_bytes(data, start, end, other_start, other_end):
    same = 0
    if end - start == other_end - other_start:
        while start + same < end and data[start + same] == data[other_start + same]:
            same += 1
    return start + same == end


@numba.njit(cache=True, nogil=True)
def _filled_slots(hashes, size):
    """Open addressing table of `size` (a power of two) slots that holds the numbers of these hashes."""
    slots = np.full(size, -1, np.int32)
    for number in range(len(hashes)):
        slot = np.int64(hashes[number] & np.uint64(size - 1))
        while slots[slot] >= 0:
            slot = (slot + 1) & (size - 1)
        slots[slot] = number
    return slots


@numba.njit(cache=True, nogil=True)
def _measure_rows(number, piece_borders, offsets, borders):
    for row in range(len(borders) - 1):
        length = 0
        for piece in range(piece_borders[row], piece_borders[row + 1]):
            length += offsets[number[piece] + 1] - offsets[number[piece]]
        borders[row + 1] = borders[row] + length


@numba.njit(cache=True, nogil=True)
def _copy_tokens(number, tokens, offsets, joined):
    place = 0
    for piece in number:
        for source in range(offsets[piece], offsets[piece + 1]):
            joined[place] = tokens[source]
            place += 1
