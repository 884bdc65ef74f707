"""Code points → words: where each begins and ends, and a hash of each.

The rules are those of spaCy 3's English tokenizer, which the published thresholds of Gopher and FineWeb were computed
with: cut at white space; strip punctuation from both ends; split inside at ellipses, icons, hyphens between letters
and a few more; keep web addresses whole; English contractions are two words. Characters of scripts without spaces
are words of their own.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from modelmill.tasks.text import characters as classed
from modelmill.tasks.text.characters import (
    HYPHEN,
    ICON,
    INFIX,
    LETTER,
    LOWER,
    PREFIX,
    QUOTE,
    SINGLE,
    SPACE,
    SUFFIX,
    UPPER,
)
from modelmill.tasks.text.exceptions import exception_table
from modelmill.tasks.text.flat import Characters
from modelmill.tasks.text.hashing import stretch_hashes

DIGIT = classed.DIGIT


@dataclass(frozen=True)
class Words:
    """Words of several rows: those of row i are `offsets[i]` to `offsets[i + 1]`.

    starts, ends: positions in the code points. hashes: of the code points of each (see hashing.py).
    """

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    offsets: NDArray[np.int64]

    @property
    def counts(self) -> NDArray[np.int64]:
        """Number of words of each row."""
        return np.diff(self.offsets)


def words(texts: Characters) -> Words:
    """Cut texts into words."""
    starts, ends, offsets = _cut_rows(texts.codes, texts.offsets, classed.classes(), *exception_table())
    return Words(starts, ends, stretch_hashes(texts.codes, starts, ends), offsets)


@njit(cache=True, nogil=True)
def _cut_rows(codes, offsets, classes, exception_codes, exception_lengths):
    """Starts, ends and row offsets of all words. Two passes over memory that grows with the words found."""
    starts = np.empty(len(codes) + 1, np.int64)
    ends = np.empty(len(codes) + 1, np.int64)
    suffixes = np.empty(2 * len(codes) + 2, np.int64)
    possible = _possible_shapes(exception_codes)
    row_offsets = np.zeros(len(offsets), np.int64)
    count = 0
    for row in range(len(offsets) - 1):
        position, end = offsets[row], offsets[row + 1]
        while position < end:
            flags = classes[codes[position]]
            if flags & SPACE:
                position += 1
                continue
            start = position
            single = flags & SINGLE
            only_letters = flags & (LETTER | ICON) == LETTER
            position += 1
            while position < end and not single:
                flags = classes[codes[position]]
                if flags & (SPACE | SINGLE):
                    break
                only_letters = only_letters and flags & (LETTER | ICON) == LETTER
                position += 1
            if only_letters and not _is_possible(codes, start, position, possible):  # most words: nothing to cut
                starts[count], ends[count] = start, position
                count += 1
                continue
            first = count
            count = _cut_chunk(
                codes, start, position, classes, exception_codes, exception_lengths, possible, starts, ends, count,
                suffixes,
            )  # fmt: skip
            if count > first + 1:
                count = _joined(codes, starts, ends, first, count, exception_codes, exception_lengths, possible)
        row_offsets[row + 1] = count
    return starts[:count].copy(), ends[:count].copy(), row_offsets


@njit(cache=True, nogil=True)
def _ends(codes, start, end):
    """First and last character of a stretch (0 outside ASCII) as one number."""
    first, last = codes[start], codes[end - 1]
    first = first if first < 128 else np.uint32(0)
    last = last if last < 128 else np.uint32(0)
    return first * np.uint32(128) + last


@njit(cache=True, nogil=True)
def _is_possible(codes, start, end, possible):
    """Whether an exception has the stretch's ends and length."""
    return possible[_ends(codes, start, end)] >> np.uint16(min(end - start, 15)) & np.uint16(1) != 0


@njit(cache=True, nogil=True)
def _possible_shapes(exception_codes):
    """For each pair of ends the lengths of exceptions, as bits: a glance that spares most stretches the search."""
    possible = np.zeros(128 * 128, np.uint16)
    for row in range(len(exception_codes)):
        length = 0
        while length < exception_codes.shape[1] and exception_codes[row, length]:
            length += 1
        possible[_ends(exception_codes[row], 0, length)] |= np.uint16(1 << length)
    return possible


@njit(cache=True, nogil=True)
def _cut_chunk(codes, start, end, classes, exception_codes, exception_lengths, possible, starts, ends, count, suffixes):
    """Words of one stretch without white space, appended to `starts` and `ends`; returns their new number."""
    num_suffixes = 0
    exception = _find_exception(codes, start, end, exception_codes, possible)
    while start < end and exception < 0:
        before = _prefix_length(codes, start, end, classes)
        if before:
            starts[count], ends[count] = start, start + before
            count += 1
            start += before
            exception = _find_exception(codes, start, end, exception_codes, possible)
            if exception >= 0 or start >= end:
                break
        after = _suffix_length(codes, start, end, classes)
        if after:
            suffixes[2 * num_suffixes], suffixes[2 * num_suffixes + 1] = end - after, end
            num_suffixes += 1
            end -= after
            exception = _find_exception(codes, start, end, exception_codes, possible)
        if not before and not after:
            break
    if exception >= 0:
        for length in exception_lengths[exception]:
            if length:
                starts[count], ends[count] = start, start + length
                count += 1
                start += length
    elif start < end:
        if not _has_infix(codes, start, end, classes) or _is_address(codes, start, end, classes):
            starts[count], ends[count] = start, end
            count += 1
        else:
            count = _cut_inside(codes, start, end, classes, starts, ends, count)
    for suffix in range(num_suffixes - 1, -1, -1):
        starts[count], ends[count] = suffixes[2 * suffix], suffixes[2 * suffix + 1]
        count += 1
    return count


@njit(cache=True, nogil=True)
def _joined(codes, starts, ends, first, count, exception_codes, exception_lengths, possible):
    """Join neighbouring words from `first` on that together spell an exception, as in `later():`, where `):` is one:
    spaCy looks for them once more after all is cut, the longest first. Returns the new number of words."""
    for size in range(min(4, count - first), 1, -1):
        kept, i = first, first
        while i < count:
            stop = i + 1
            if i + size <= count:
                found = _find_exception(codes, starts[i], ends[i + size - 1], exception_codes, possible)
                if found >= 0 and exception_lengths[found, 1] == 0:
                    stop = i + size
            starts[kept], ends[kept] = starts[i], ends[stop - 1]
            kept, i = kept + 1, stop
        count = kept
    return count


@njit(cache=True, nogil=True)
def _find_exception(codes, start, end, exception_codes, possible):
    """Row of the exception that equals the stretch, or -1 (binary search over padded rows)."""
    length = end - start
    width = exception_codes.shape[1]
    if length < 2 or length > width or not _is_possible(codes, start, end, possible):
        return -1
    low, high = 0, len(exception_codes)
    while low < high:
        middle = (low + high) // 2
        order = 0
        for i in range(width):
            code = codes[start + i] if i < length else np.uint32(0)
            other = exception_codes[middle, i]
            if code != other:
                order = -1 if code < other else 1
                break
        if order == 0:
            return middle
        if order < 0:
            high = middle
        else:
            low = middle + 1
    return -1


@njit(cache=True, nogil=True)
def _has_infix(codes, start, end, classes):
    """Whether a character that may split a stretch stands in it."""
    found = False
    for i in range(start, end):
        found = found or classes[codes[i]] & INFIX != 0
    return found


@njit(cache=True, nogil=True)
def _dots(codes, start, end):
    """Length of a run of two or more full stops at `start`, else 0."""
    position = start
    while position < end and codes[position] == 46:
        position += 1
    return position - start if position - start >= 2 else 0


@njit(cache=True, nogil=True)
def _prefix_length(codes, start, end, classes):
    code = codes[start]
    if classes[code] & PREFIX:
        return 1
    if code == 43:  # a plus sign, unless it begins a number
        return 0 if start + 1 < end and classes[codes[start + 1]] & DIGIT else 1
    return _dots(codes, start, end)


@njit(cache=True, nogil=True)
def _suffix_length(codes, start, end, classes):
    last = codes[end - 1]
    length = end - start
    if length >= 2 and (last == 115 or last == 83) and (codes[end - 2] == 39 or codes[end - 2] == 8217):
        return 2  # 's
    if classes[last] & SUFFIX:
        return 1
    if length < 2:
        return 0
    before = codes[end - 2]
    if last == 46:
        if before == 46:
            position = end - 1
            while position > start and codes[position - 1] == 46:
                position -= 1
            return end - position
        flags = classes[before]
        if flags & (LOWER | DIGIT | SUFFIX) or before == 37 or before == 178 or before == 45 or before == 43:
            return 1
        return 1 if length >= 3 and flags & UPPER and classes[codes[end - 3]] & UPPER else 0
    if classes[before] & DIGIT and (last == 43 or last == 37 or last == 36 or last == 8364):
        return 1
    return _unit_length(codes, start, end, classes)


@njit(cache=True, nogil=True)
def _unit_length(codes, start, end, classes):
    """Length of a common unit right after a digit: one or two letters such as kg, GB, m."""
    for length in range(1, 3):
        if end - start <= length or not classes[codes[end - length - 1]] & DIGIT:
            continue
        first = codes[end - length]
        if length == 1:
            return 1 if first in (109, 103, 116, 84, 71, 77, 75) else 0  # m g t T G M K
        second = codes[end - 1]
        if second == 109:
            return 2 if first in (107, 100, 99, 109, 110) else 0  # km dm cm mm nm
        if second == 98:
            return 2 if first in (108, 109, 107, 103, 116) else 0  # lb mb kb gb tb
        if second == 66:
            return 2 if first in (77, 75, 71, 84) else 0  # MB KB GB TB
        if second == 103:
            return 2 if first in (107, 109) else 0  # kg mg
        return 2 if (first, second) in ((104, 97), (121, 100), (105, 110), (102, 116), (111, 122)) else 0
    return 0


@njit(cache=True, nogil=True)
def _cut_inside(codes, start, end, classes, starts, ends, count):
    """Split a stretch at infixes; an infix is a word of its own."""
    begin, position = start, start
    while position < end:
        length = _infix_length(codes, start, position, end, classes)
        if not length:
            position += 1
            continue
        if begin < position:
            starts[count], ends[count] = begin, position
            count += 1
        starts[count], ends[count] = position, position + length
        count += 1
        position += length
        begin = position
    if begin < end:
        starts[count], ends[count] = begin, end
        count += 1
    return count


@njit(cache=True, nogil=True)
def _infix_length(codes, start, position, end, classes):  # one branch per kind of infix
    code = codes[position]
    flags = classes[code]
    if not flags & INFIX:
        return 0
    dots = _dots(codes, position, end)
    if dots:
        return dots
    if code == 8230 or flags & ICON:
        return 1
    if position == start or position + 1 >= end:
        return 0
    before, after = classes[codes[position - 1]], classes[codes[position + 1]]
    if code in (43, 45, 42, 94) and before & DIGIT and (after & DIGIT or codes[position + 1] == 45):
        return 1
    if code == 46:
        return 1 if before & (LOWER | QUOTE) and after & (UPPER | QUOTE) else 0
    if code == 44:
        return 1 if before & LETTER and after & LETTER else 0
    if flags & HYPHEN and before & (LETTER | DIGIT):
        length = 1
        while length < 3 and position + length < end and codes[position + length] == code and code != 126:
            length += 1
        if position + length < end and classes[codes[position + length]] & LETTER:
            return length
        return 0
    if code in (58, 60, 62, 61, 47) and before & (LETTER | DIGIT) and after & LETTER:
        return 1
    return 0


@njit(cache=True, nogil=True)
def _is_address(codes, start, end, classes):
    """Whether a stretch is a web or mail address: [scheme://]name.name[:port][/path], last name of letters."""
    position = start
    while position < end and codes[position] < 128 and classes[codes[position]] & (LETTER | DIGIT):
        position += 1
    if position > start and position + 2 < end and codes[position] == 58:
        if codes[position + 1] != 47 or codes[position + 2] != 47:
            return False
        start = position + 3
    position, last_dot = start, -1
    while position < end:
        code = codes[position]
        if code == 46:
            if last_dot == position - 1:
                return False
            last_dot = position
        elif code == 64:  # what came before was the user of a mail address
            last_dot = -1
        elif not (classes[code] & (LETTER | DIGIT) or code == 45 or code == 95):
            break
        position += 1
    if last_dot <= start or position - last_dot < 3:
        return False
    for i in range(last_dot + 1, position):
        if not classes[codes[i]] & LETTER or 65 <= codes[i] <= 90:
            return False
    return position == end or codes[position] in (47, 58, 63, 35)
