"""Bytes of a page → code points: UTF-8, and character references as far as the statistics need them."""

import numpy as np
from numba import njit

from modelmill.tasks.text.characters import NUM_CODE_POINTS

_LAST = NUM_CODE_POINTS - 1
_LONGEST = 12  # bytes of a reference that is looked at; longer names are rare, and a lone "&" must cost little
_QUOTATION_MARK, _LETTER = 0x201D, 0xE9


@njit(cache=True, nogil=True)
def code_point(content, position, end):
    """Code point at a position of UTF-8 or of a character reference, and where the next begins."""
    byte = np.int64(content[position])
    if byte < 0x80 and byte != 38:
        return byte, position + 1
    return _long_code_point(content, position, end, byte)


@njit(cache=True, nogil=True)
def _long_code_point(content, position, end, byte):
    """Code point of several bytes: rare, and apart from the common case so that callers hold only that one."""
    if byte == 38:  # & ... ;
        stop = _end_of_reference(content, position, end)
        return (byte, position + 1) if stop < 0 else (_referenced(content, position, stop), stop + 1)
    length = 2 if byte < 0xE0 else (3 if byte < 0xF0 else 4)
    value = byte & (0x1F if length == 2 else (0x0F if length == 3 else 0x07))
    stop = min(position + length, end)
    for i in range(position + 1, stop):
        value = (value << 6) | (content[i] & 0x3F)
    return min(value, _LAST), stop


@njit(cache=True, nogil=True)
def _end_of_reference(content, position, end):
    """Position of the semicolon that ends a reference, or -1 where none does."""
    stop = position + 1
    while stop < end and stop - position < _LONGEST and content[stop] > 32 and content[stop] not in (59, 38):
        stop += 1
    return stop if stop < end and content[stop] == 59 and stop > position + 1 else -1


@njit(cache=True, nogil=True)
def _referenced(content, position, stop):
    """Code point of the reference between "&" and ";"; names but for the commonest only by their kind."""
    first, second = content[position + 1], content[position + 2]
    if first == 35 and stop > position + 2:
        hexadecimal = second | 32 == 120
        value = np.int64(0)
        for i in range(position + 3 if hexadecimal else position + 2, stop):
            digit = np.int64(content[i])
            digit = digit - 48 if 48 <= digit <= 57 else (digit | 32) - 87
            value = min(value * (16 if hexadecimal else 10) + max(digit, 0), _LAST)
        return value
    length = stop - position - 1
    if length == 4 and first == 110 and second == 98:  # nbsp
        return np.int64(0xA0)
    if length == 4 and first == 99 and second == 111:  # copy
        return np.int64(0xA9)
    if length == 5 and first == 114 and second == 97:  # raquo
        return np.int64(0xBB)
    if second == 115 or first in (113, 108):  # rsquo, quot, ldquo ...
        return np.int64(_QUOTATION_MARK)
    return np.int64(_LETTER)  # most other names are letters with accents
