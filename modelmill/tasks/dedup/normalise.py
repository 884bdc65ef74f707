"""Texts → texts to compare: NFD, lower case, without punctuation and control characters, spaces collapsed.

The normalisation of dots.llm1 (C.1, step 4), which its MinHash uses too.
"""

import functools
import string
import unicodedata

import numpy as np
from numba import njit
from numpy.typing import NDArray

from modelmill.tasks.text.characters import NUM_CODE_POINTS, classed
from modelmill.tasks.text.flat import Characters

KEEP, REMOVE, SPACE, REPLACE = 0, 1, 2, 3


@functools.cache
def _tables() -> tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.uint32], NDArray[np.uint8]]:
    """Per code point: what to do, where its replacement begins in the flat table (which a 0 ends), combining class."""
    codes, text, categories = classed()
    action = np.zeros(NUM_CODE_POINTS, np.uint8)
    start = np.zeros(NUM_CODE_POINTS, np.int32)
    combining = np.zeros(NUM_CODE_POINTS, np.uint8)
    combining[codes] = np.fromiter(map(unicodedata.combining, text), np.uint8, len(text))
    # Controls and formats go; private and unassigned characters, of categories Co and Cn, may mean something.
    goes = np.strings.startswith(categories, "P") | np.isin(categories, ["Cc", "Cf"])
    removed = {*map(chr, codes[goes]), *string.punctuation}
    action[[ord(character) for character in removed]] = REMOVE
    replacements: list[int] = []
    decomposed = functools.partial(unicodedata.normalize, "NFD")
    folded = map(decomposed, map(str.lower, map(decomposed, text)))
    for character, replaced in zip(text, folded, strict=True):
        if replaced == character:
            continue
        left = [ord(part) for part in replaced if part not in removed]
        if not left:
            action[ord(character)] = REMOVE
            continue
        action[ord(character)], start[ord(character)] = REPLACE, len(replacements)
        replacements += [*left, 0]
    action[codes[np.fromiter(map(str.isspace, text), np.bool_, len(text))]] = SPACE
    return action, start, np.array(replacements, np.uint32), combining


def normalised(texts: Characters, zero_digits: bool = False) -> Characters:
    """Normalise every text; with `zero_digits` every decimal digit becomes 0 (as ccNet compares lines)."""
    codes, offsets = _normalise(texts.codes, texts.offsets, *_tables(), zero_digits)
    return Characters(codes, offsets)


@njit(cache=True, nogil=True)
def _normalise(codes, offsets, action, start, replacements, combining, zero_digits):
    num_rows = len(offsets) - 1
    capacity = len(codes) + 16
    result = np.empty(capacity, np.uint32)
    result_offsets = np.zeros(num_rows + 1, np.int64)
    count = 0
    for row in range(num_rows):
        row_start, gap = count, False
        for i in range(offsets[row], offsets[row + 1]):
            code = codes[i]
            kind = action[code]
            if kind == REMOVE:
                continue
            if kind == SPACE:
                gap = True
                continue
            if count + 8 >= capacity:  # decompositions are longer: at most four code points for one, and a space
                capacity *= 2
                grown = np.empty(capacity, np.uint32)
                for copied in range(count):  # assigning a slice takes numba three seconds longer to compile
                    grown[copied] = result[copied]
                result = grown
            if gap and count > row_start:
                result[count] = 32
                count += 1
            gap = False
            if kind == KEEP:
                result[count] = 48 if zero_digits and 48 <= code <= 57 else code
                count = _ordered(result, row_start, count, combining)
                continue
            position = start[code]
            while replacements[position]:
                result[count] = replacements[position]
                count = _ordered(result, row_start, count, combining)
                position += 1
        result_offsets[row + 1] = count
    return result[:count].copy(), result_offsets


@njit(cache=True, nogil=True)
def _ordered(result, row_start, count, combining):
    """Move the code point just written before others of a higher combining class (canonical order)."""
    position = count
    order = combining[result[position]]
    while order and position > row_start and combining[result[position - 1]] > order:
        result[position], result[position - 1] = result[position - 1], result[position]
        position -= 1
    return count + 1
