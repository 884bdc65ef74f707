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

REMOVED, BLANK = 0, 32
# Entries of the table from here on are no code points: a mark that stays but may have to move, or, above, where the
# replacement begins in the flat table.
MARK = 1 << 30


@functools.cache
def _tables(zero_digits: bool) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint8]]:
    """What becomes of each code point, the flat table of replacements (each ended by a 0), combining classes."""
    codes, text, categories = classed()
    becomes = np.arange(NUM_CODE_POINTS, dtype=np.uint32)
    combining = np.zeros(NUM_CODE_POINTS, np.uint8)
    combining[codes] = np.fromiter(map(unicodedata.combining, text), np.uint8, len(text))
    becomes[combining > 0] = MARK
    # Controls and formats go; private and unassigned characters, of categories Co and Cn, may mean something.
    goes = np.strings.startswith(categories, "P") | np.isin(categories, ["Cc", "Cf"])
    removed = {*map(chr, codes[goes]), *string.punctuation}
    becomes[[ord(character) for character in removed]] = REMOVED
    replacements: list[int] = []
    decomposed = functools.partial(unicodedata.normalize, "NFD")
    folded = map(decomposed, map(str.lower, map(decomposed, text)))
    for character, replaced in zip(text, folded, strict=True):
        if replaced == character:
            continue
        left = [ord(part) for part in replaced if part not in removed]
        if not left:
            becomes[ord(character)] = REMOVED
        elif len(left) == 1 and not combining[left[0]]:
            becomes[ord(character)] = left[0]
        else:
            becomes[ord(character)] = MARK + 1 + len(replacements)
            replacements += [*left, 0]
    becomes[codes[np.fromiter(map(str.isspace, text), np.bool_, len(text))]] = BLANK
    if zero_digits:
        becomes[48:58] = 48
    return becomes, np.array(replacements, np.uint32), combining


def normalised(texts: Characters, zero_digits: bool = False) -> Characters:
    """Normalise every text; with `zero_digits` every decimal digit becomes 0 (as ccNet compares lines)."""
    codes, offsets = _normalise(texts.codes, texts.offsets, *_tables(zero_digits))
    return Characters(codes, offsets)


@njit(cache=True, nogil=True)
def _normalise(codes, offsets, becomes, replacements, combining):
    num_rows = len(offsets) - 1
    capacity = len(codes) + 64
    result = np.empty(capacity, np.uint32)
    result_offsets = np.zeros(num_rows + 1, np.int64)
    count = 0
    for row in range(num_rows):
        row_start, last = count, np.uint32(BLANK)
        for i in range(offsets[row], offsets[row + 1]):
            code = becomes[codes[i]]
            if code < MARK:
                # No branch for removed characters and repeated spaces: written, and written over by the next.
                result[count] = code
                count += (code != REMOVED) & ((code != BLANK) | (last != BLANK))
                last = last if code == REMOVED else code
                continue
            # Decompositions are longer, at most four code points for one; what follows here may need room as well.
            if count + len(codes) - i + 8 >= capacity:
                capacity *= 2
                grown = np.empty(capacity, np.uint32)
                for copied in range(count):  # assigning a slice takes numba three seconds longer to compile
                    grown[copied] = result[copied]
                result = grown
            if code == MARK:
                result[count] = codes[i]
                count = _ordered(result, row_start, count, combining)
            else:
                position = code - MARK - 1
                while replacements[position]:
                    result[count] = replacements[position]
                    count = _ordered(result, row_start, count, combining)
                    position += 1
            last = result[count - 1]
        if count > row_start and result[count - 1] == BLANK:
            count -= 1
        result_offsets[row + 1] = count
    return result[:count], result_offsets


@njit(cache=True, nogil=True)
def _ordered(result, row_start, count, combining):
    """Move the code point just written before others of a higher combining class (canonical order)."""
    position = count
    order = combining[result[position]]
    while order and position > row_start and combining[result[position - 1]] > order:
        result[position], result[position - 1] = result[position - 1], result[position]
        position -= 1
    return count + 1
