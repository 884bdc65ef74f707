"""Texts → what they are written with: letters, Han and kana characters, and lines of program code or markup."""

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from modelmill.tasks.text.characters import LETTER, LINE_END, SPACE, classes
from modelmill.tasks.text.flat import Characters

# Share of a line's visible characters from which its signs make it code: prose, links and formulas stay below.
SIGNS = 0.14
# Share of letters outside ASCII from which a line is prose, whatever signs its formulas have.
FOREIGN = 0.2
LONGEST_TAG = 400
# Of ASCII, the signs of programs that are rare in prose.
_SIGNS = np.isin(np.arange(128), np.frombuffer(b"#$&()*+;<=>@[\\]^_`{|}~", np.uint8))


@dataclass(frozen=True)
class Script:
    """Counts for each text: visible characters, letters outside of tags, Han and kana, and characters in code.

    in_code: for each code point of all texts, whether its line is code.
    """

    visible: NDArray[np.int64]
    letters: NDArray[np.int64]
    han: NDArray[np.int64]
    kana: NDArray[np.int64]
    code: NDArray[np.int64]
    in_code: NDArray[np.bool_]

    @property
    def code_share(self) -> NDArray[np.float64]:
        """Share of visible characters that stand in lines of code or markup, 0 where nothing is visible."""
        return self.code / np.maximum(self.visible, 1)


def script(texts: Characters) -> Script:
    """Count what each text is written with, in one pass."""
    counts, in_code = _counts(texts.codes, texts.offsets, classes())
    visible, letters, han, kana, code = counts
    return Script(visible, letters, han, kana, code, in_code)


@njit(cache=True, nogil=True)
def _is_code(codes, start, end, classes, after_code):
    """Whether a line is code: it ends in a brace or semicolon, is dense with signs, or goes on from code, indented.

    A comment's or a box's marks at the beginning (# // * | >) count as indentation, so that comments stay prose.
    """
    first, last = start, end
    while first < last and (classes[codes[first]] & SPACE or codes[first] in (35, 42, 47, 62, 124)):
        first += 1
    while last > first and classes[codes[last - 1]] & SPACE:
        last -= 1
    if first >= last:
        return after_code
    signs, visible, opened, words, foreign = 0, 0, False, 0, 0
    for i in range(first, last):
        code = codes[i]
        space = classes[code] & SPACE != 0
        words += space
        visible += not space
        if code < 128:
            signs += _SIGNS[code]
            opened = opened or code == 40
        else:
            foreign += classes[code] & LETTER != 0
    if foreign >= FOREIGN * visible:
        return False
    ending = codes[last - 1]
    if ending == 123 or ending == 125 or (ending == 59 and (signs > 1 or words < 4)):
        return True
    if (ending == 58 or ending == 44) and opened and words < 12:  # def name(...): or an argument of a call
        return True
    if signs >= 2 and signs >= SIGNS * visible:
        return True
    return after_code and first - start >= 2 and (signs > 1 or words < 4)


@njit(cache=True, nogil=True)
def _tag_end(codes, position, end):
    """Where the markup tag that opens at a position ends, or the position itself where none opens."""
    following = codes[position + 1] if position + 1 < end else np.uint32(0)
    if not (following == 47 or following == 33 or 65 <= following <= 90 or 97 <= following <= 122):
        return position
    for i in range(position + 1, min(end, position + LONGEST_TAG)):
        if codes[i] == 62:
            return i + 1
        if codes[i] == 60:
            return position
    return position


@njit(cache=True, nogil=True)
def _counts(codes, offsets, classes):
    num_rows = len(offsets) - 1
    counts = np.zeros((5, num_rows), np.int64)
    in_code = np.zeros(len(codes), np.bool_)
    for row in range(num_rows):
        begin, end = offsets[row], offsets[row + 1]
        after_code, tag_end = False, begin
        letters, han, kana = 0, 0, 0
        while begin < end:
            stop, visible = begin, 0
            while stop < end and not classes[codes[stop]] & LINE_END:
                code = codes[stop]
                flags = classes[code]
                visible += flags & SPACE == 0
                if code == 60 and stop >= tag_end:
                    tag_end = _tag_end(codes, stop, end)
                letters += flags & LETTER != 0 and stop >= tag_end
                if code >= 0x3041:
                    han += 0x3400 <= code <= 0x9FFF or 0x20000 <= code <= 0x3FFFF
                    kana += code <= 0x30FF
                stop += 1
            after_code = _is_code(codes, begin, stop, classes, after_code)
            counts[0, row] += visible
            counts[4, row] += visible if after_code else 0
            if after_code:
                in_code[begin:stop] = True
            begin = stop + 1
        counts[1, row], counts[2, row], counts[3, row] = letters, han, kana
    return counts, in_code
