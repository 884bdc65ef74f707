"""Bytes of HTML → names, values of attributes and the words in them: the kernels that read characters.

All take the page's bytes and a stretch `[start, end)`; none allocates.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from modelmill.tasks.ingest.main_text.vocabulary import FNV_OFFSET, FNV_PRIME, TABLE_BITS

LESS, GREATER, SLASH, EXCLAMATION, QUESTION_MARK, HYPHEN, EQUALS = (np.uint8(ord(sign)) for sign in "<>/!?-=")
OFFSET, PRIME = np.uint64(FNV_OFFSET), np.uint64(FNV_PRIME)
_SHIFT = np.uint64(64 - TABLE_BITS)
_ONE = np.uint64(1)
_QUOTE, _APOSTROPHE = (np.uint8(ord(sign)) for sign in "\"'")


def _byte_tables() -> tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.uint8]]:
    """Of each byte: its lower case, whether it ends a name, and what it is to the automaton of keywords.

    Tables, since a processor cannot foresee what tests of single bytes say.
    """
    lower, letter = np.arange(256, dtype=np.uint8), np.zeros(256, np.uint8)
    ends = np.isin(lower, np.frombuffer(b" \t\n\f\r>/=", np.uint8))
    lower[65:91] += 32
    letter[65:91] = letter[97:123] = np.arange(1, 27)
    letter[[ord("-"), ord("_")]] = 27
    for table in (lower, ends, letter):
        table.flags.writeable = False
    return lower, ends, letter


_LOWER, _ENDS_NAME, _LETTER = _byte_tables()


def word(text: str) -> NDArray[np.uint8]:
    """A lower-case ASCII word as `contains` takes it."""
    array = np.frombuffer(text.encode(), np.uint8)
    array.flags.writeable = False
    return array


@njit(cache=True, nogil=True)
def is_space(byte):
    """Whether a byte is white space in HTML, which does not count the vertical tab."""
    return byte == 32 or (9 <= byte <= 13 and byte != 11)


@njit(cache=True, nogil=True)
def is_letter(byte):
    """Whether a byte is an ASCII letter."""
    return 97 <= (byte | 32) <= 122


@njit(cache=True, nogil=True)
def after(content, position, end, sign):
    """Where what follows the next such sign begins; end + 1 where there is none."""
    while position < end and content[position] != sign:
        position += 1
    return position + 1


@njit(cache=True, nogil=True)
def looked_up(value, hashes, numbers):
    """Number of a name in a table of `name_table`, 0 for an unknown one."""
    slot = value >> _SHIFT
    while numbers[slot]:
        if hashes[slot] == value:
            return np.int64(numbers[slot])
        slot = (slot + _ONE) % np.uint64(len(hashes))
    return np.int64(0)


@njit(cache=True, nogil=True)
def name_at(content, position, end):
    """Hash of the lower-cased name at a position, and where it ends."""
    value = OFFSET
    while position < end:
        byte = content[position]
        if _ENDS_NAME[byte]:
            break
        value = (value ^ np.uint64(_LOWER[byte])) * PRIME
        position += 1
    return value, position


@njit(cache=True, nogil=True)
def value_at(content, position, end):
    """Start and end of the attribute value at a position (after the equals sign), and where the rest begins."""
    while position < end and is_space(content[position]):
        position += 1
    if position >= end:
        return end, end, end
    quote = content[position]
    if quote in (_QUOTE, _APOSTROPHE):
        start = position + 1
        stop = after(content, start, end, quote) - 1
        return start, stop, min(stop + 1, end)
    start = position
    while position < end and not is_space(content[position]) and content[position] != GREATER:
        position += 1
    return start, position, position


@njit(cache=True, nogil=True)
def keyword_groups(content, start, end, automaton, found):
    """Bits of the groups of keywords in a stretch, by the automaton of `keyword_automaton`."""
    state, groups = np.int64(0), np.uint64(0)
    for i in range(start, end):
        state = np.int64(automaton[state, _LETTER[content[i]]])
        groups |= found[state]
    return groups


@njit(cache=True, nogil=True)
def hash_of_classes(content, start, end, value):
    """Hash of the names in a class attribute without their digits, which count items rather than name a kind."""
    for i in range(start, end):
        byte = content[i]
        if not 48 <= byte <= 57:
            value = (value ^ np.uint64(byte)) * PRIME
    return value


@njit(cache=True, nogil=True)
def contains(content, start, end, word):
    """Whether a word stands in the stretch in either case, with or without spaces between its letters."""
    first = word[0]
    for i in range(start, end - len(word) + 1):
        if _LOWER[content[i]] != first:
            continue
        matched, position = 1, i + 1
        while matched < len(word) and position < end:
            byte = _LOWER[content[position]]
            if byte == word[matched]:
                matched += 1
            elif not is_space(byte):
                break
            position += 1
        if matched == len(word):
            return True
    return False


@njit(cache=True, nogil=True)
def end_of_raw_text(content, position, end, name_start, name_end):
    """Where the end tag of a raw text element begins, whose name stands at `[name_start, name_end)`; else the end."""
    length = name_end - name_start
    while position < end:
        if content[position] == LESS and position + 1 < end and content[position + 1] == SLASH:
            matched, first = 0, position + 2
            while matched < length and first + matched < end:
                if content[first + matched] | 32 != content[name_start + matched] | 32:
                    break
                matched += 1
            stop = first + length
            if matched == length and (
                stop >= end or is_space(content[stop]) or content[stop] == GREATER or content[stop] == SLASH
            ):
                return position
        position += 1
    return end
