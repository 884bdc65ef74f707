"""Texts → one byte a character, and the spans of it that may hold personal data or keys.

The search is one pass that looks for what every kind has in common (an at sign, seven digits in a row of numbers, a
known prefix); most pages have few such places, and only those are looked at by the slower checks.
"""

import functools
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from modelmill.tasks.text.flat import utf8_buffers

# Kinds of spans.
EMAIL, NUMBER, CODE, IPV6, PREFIXED, ASSIGNED, PEM = range(1, 8)

# What a character outside ASCII is in the view: a letter that Latin, Greek, Cyrillic, Arabic or Indic text joins to
# the next, or anything else (Chinese, icons, punctuation), which may stand right beside a number or an address.
LETTER, OTHER = 0x81, 0x80

MIN_DIGITS = 7  # of a row of numbers: the shortest telephone number
MAX_NUMBERS = 240  # characters of a row of numbers, so that a page of nothing else costs no more
MIN_ASSIGNED = 8  # characters of a value that a name such as `password` may have been given
_BMP = 1 << 16

# Flags of the bytes of the view.
_DIGIT, _UPPER, _WORD, _LOCAL, _HOST, _HEXADECIMAL, _JOINT, _TOKEN, _NOTED = (1 << bit for bit in range(9))

# What shows a key that a service issued (see keys.py): four characters up to the first _ or -, or the first four. A
# space stands for any character.
KEY_MARKS = (
    "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "hub_", "pat-", "oxa-", "oxb-", "oxp-", "oxr-", "oxs-", "app-", " sk_",
    " rk_", " sk-", " hf_", "npm_", "ypi-", "dop_", "pat_", "sec_",
)  # fmt: skip
KEY_STARTS = ("AKIA", "ASIA", "AIza", "GOCS", "SG. ")


@dataclass(frozen=True)
class Candidates:
    """Spans of a view: `view` has one byte a character and a newline after each row, which `starts` are the offsets of.

    kinds, begins, ends: of each span, in the order of their beginnings.
    """

    view: bytes
    starts: NDArray[np.int64]
    kinds: NDArray[np.uint8]
    begins: NDArray[np.int64]
    ends: NDArray[np.int64]

    def rows(self) -> NDArray[np.int64]:
        """The row of each span."""
        return np.searchsorted(self.starts, self.begins, side="right") - 1


def candidates(texts: pa.ChunkedArray | pa.Array) -> Candidates:
    """Where texts may hold personal data. A null counts as an empty text."""
    view, starts = _view(*utf8_buffers(texts), _folding())
    kinds, begins, ends = _spans(view, _flags(), _marks(), len(KEY_MARKS))
    return Candidates(view.tobytes(), starts, kinds, begins, ends)


@functools.cache
def _folding() -> NDArray[np.uint8]:
    """Code point → byte of the view: ASCII stays, the forms that other scripts give to ASCII characters become it."""
    folding = np.full(_BMP, OTHER, np.uint8)
    folding[:128] = np.arange(128)
    folding[0xC0:0x2000] = LETTER
    folding[[0xAA, 0xB5, 0xBA]] = LETTER
    folding[0xFF01:0xFF5F] = np.arange(0x21, 0x7F)  # full width
    for zero in (0x660, 0x6F0, 0x966, 0x9E6):  # Arabic, Persian, Devanagari and Bengali digits
        folding[zero : zero + 10] = np.arange(ord("0"), ord("9") + 1)
    folding[[0xA0, 0x202F, 0x3000, *range(0x2000, 0x200B)]] = ord(" ")
    folding[[0xAD, 0x2212, *range(0x2010, 0x2016)]] = ord("-")
    folding[[0xA2, 0xA3, 0xA5, *range(0x20A0, 0x20C0)]] = ord("$")  # currency signs
    return folding


@functools.cache
def _flags() -> NDArray[np.uint16]:
    digits, upper, lower = "0123456789", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz"
    flags = np.zeros(256, np.uint16)
    for flag, members in (
        (_DIGIT, digits),
        (_UPPER, upper),
        (_WORD, digits + upper + lower + "_" + chr(LETTER)),
        (_LOCAL, digits + upper + lower + "_.+%-'" + chr(LETTER)),
        (_HOST, digits + upper + lower + ".-" + chr(LETTER)),
        (_HEXADECIMAL, digits + "ABCDEFabcdef"),
        (_JOINT, " .-()/"),
        (_TOKEN, digits + upper + lower + "_-+/.~!@#$%^&*"),
        (_NOTED, digits + upper + "@:=-_"),
    ):
        flags[[ord(member) for member in members]] |= flag
    return flags


@functools.cache
def _marks() -> NDArray[np.uint8]:
    """Four bytes a row: the marks, then the starts; 0 stands for any byte."""
    rows = [mark.replace(" ", "\0").encode() for mark in (*KEY_MARKS, *KEY_STARTS)]
    return np.frombuffer(b"".join(rows), np.uint8).reshape(-1, 4)


@njit(cache=True, nogil=True)
def _view(data, offsets, folding):
    """The view of UTF-8 text and where each row begins in it (one more at the end)."""
    view = np.empty(offsets[-1] - offsets[0] + len(offsets) - 1, np.uint8)
    starts = np.empty(len(offsets), np.int64)
    at = 0
    for row in range(len(offsets) - 1):
        starts[row] = at
        position, end = offsets[row], offsets[row + 1]
        while position < end:
            byte = data[position]
            if byte < 0x80:
                view[at] = byte
                position += 1
            elif byte < 0xE0 and position + 1 < end:
                view[at] = folding[(byte & 0x1F) << 6 | data[position + 1] & 0x3F]
                position += 2
            elif byte < 0xF0 and position + 2 < end:
                view[at] = folding[(byte & 0xF) << 12 | (data[position + 1] & 0x3F) << 6 | data[position + 2] & 0x3F]
                position += 3
            else:
                view[at] = OTHER
                position += 4
            at += 1
        view[at] = 10
        at += 1
    starts[len(offsets) - 1] = at
    return view[:at], starts


@njit(cache=True, nogil=True)
def _spans(view, flags, marks, num_marks):
    """Kinds, begins and ends. Every span takes two characters of its own, so half the view is room enough."""
    kinds = np.empty(len(view) // 2 + 1, np.uint8)
    begins, ends = np.empty(len(kinds), np.int64), np.empty(len(kinds), np.int64)
    count = number_end = 0
    colon_end = np.int64(0)  # typed, or `_colon` is compiled twice
    for position in range(len(view)):
        byte = view[position]
        flag = flags[byte]
        if not flag & _NOTED:
            continue
        kind, begin, end = 0, position, position + 1
        if flag & _DIGIT:
            if position >= number_end:
                begin, end, enough = _number(view, flags, position)
                number_end = end
                kind = NUMBER if enough else 0
        elif flag & _UPPER:
            kind = _capital(view, flags, position, marks, num_marks)
        elif byte == 64:  # @
            begin, end = _around(view, flags, position)
            kind = EMAIL if begin < position and end > position + 3 else 0
        elif byte == 58 or byte == 61:  # : =
            kind, begin, end, colon_end = _colon(view, flags, position, colon_end)
        elif position > 2 and _is_marked(view, position - 3, marks, 0, num_marks):  # - _
            kind = PREFIXED
        elif byte == 45 and position + 6 < len(view) and view[position + 5] == 66 and view[position + 4] == 45:
            kind = PEM  # -----B
        if kind:
            kinds[count], begins[count], ends[count] = kind, begin, end
            count += 1
    return kinds[:count].copy(), begins[:count].copy(), ends[:count].copy()


@njit(cache=True, nogil=True)
def _capital(view, flags, position, marks, num_marks):
    if view[position] == 74 and position > 1 and view[position - 1] == 121 and view[position - 2] == 101:  # eyJ
        return PREFIXED
    if position > 0 and flags[view[position - 1]] & _WORD:
        return 0
    if _is_marked(view, position, marks, num_marks, len(marks)):
        return PREFIXED
    return CODE if _begins_code(view, flags, position) else 0


@njit(cache=True, nogil=True)
def _colon(view, flags, position, colon_end):
    """Kind, begin and end of what is around a colon or an equals sign, and where the colons looked at end."""
    if view[position] == 58 and position >= colon_end:
        begin, end, num_colons = _colons(view, flags, position)
        if num_colons >= 3:
            return IPV6, begin, end, end
        colon_end = end
    return (ASSIGNED if _assigns(view, flags, position) else 0), position, position + 1, colon_end


@njit(cache=True, nogil=True)
def _number(view, flags, position):
    """A row of numbers from its first digit → where it begins (with + or a bracket), ends, and whether it counts."""
    num_digits = num_dots = 0
    last, joints = position, 0
    end = position
    while end < len(view):
        flag = flags[view[end]]
        if flag & _DIGIT:
            if joints == 1 and view[end - 1] == 46:
                num_dots += 1
            num_digits += 1
            last, joints = end, 0
        elif flag & _JOINT and joints < 3 and end - position < MAX_NUMBERS:
            joints += 1
        else:
            break
        end += 1
    begin = position
    while begin > 0 and position - begin < 2 and (view[begin - 1] == 43 or view[begin - 1] == 40):  # + (
        begin -= 1
    return begin, last + 1, num_digits >= MIN_DIGITS or num_dots >= 3


@njit(cache=True, nogil=True)
def _is_marked(view, position, marks, first, last):
    if position + 4 > len(view):
        return False
    for row in range(first, last):
        index = 0
        while index < 4 and (marks[row, index] == 0 or marks[row, index] == view[position + index]):
            index += 1
        if index == 4:
            return True
    return False


@njit(cache=True, nogil=True)
def _begins_code(view, flags, position):
    """Two or six capitals before two digits (IBAN, NI number, codice fiscale), or X, Y, Z before some (NIE)."""
    if position + 9 > len(view):
        return False
    capitals = 0
    while capitals < 7 and flags[view[position + capitals]] & _UPPER:
        capitals += 1
    digits = position + capitals + (capitals == 2 and view[position + 2] == 32)
    if not flags[view[digits]] & _DIGIT or not flags[view[digits + 1]] & _DIGIT:
        return False
    return capitals == 2 or capitals == 6 or (capitals == 1 and 88 <= view[position] <= 90)


@njit(cache=True, nogil=True)
def _around(view, flags, position):
    """The user and host names on both sides of an at sign, of the longest lengths that RFC 5321 allows."""
    begin, end = position, position + 1
    while begin > 0 and position - begin < 65 and flags[view[begin - 1]] & _LOCAL:
        begin -= 1
    while end < len(view) and end - position < 255 and flags[view[end]] & _HOST:
        end += 1
    return begin, end


@njit(cache=True, nogil=True)
def _colons(view, flags, position):
    begin, end, num_colons = position, position, 0
    while begin > 0 and position - begin < 5 and flags[view[begin - 1]] & _HEXADECIMAL:
        begin -= 1
    while end < len(view) and (view[end] == 58 or flags[view[end]] & _HEXADECIMAL):
        num_colons += view[end] == 58
        end += 1
    return begin, end, num_colons


@njit(cache=True, nogil=True)
def _assigns(view, flags, position):
    """Whether a long word with a digit and a letter follows, as a value follows the name of a secret."""
    at = position + 1
    while at < len(view) and at - position < 4 and (view[at] == 32 or view[at] == 34 or view[at] == 39):
        at += 1
    length, digits, letters = 0, 0, 0
    while at < len(view) and length < 64 and flags[view[at]] & _TOKEN:
        digits += flags[view[at]] & _DIGIT
        letters += (view[at] | 32) >= 97 and (view[at] | 32) <= 122
        length += 1
        at += 1
    return length >= MIN_ASSIGNED and digits > 0 and letters > 0
