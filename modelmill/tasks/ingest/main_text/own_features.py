"""A block and the elements above it → the first columns of its features: its text, and how far up each kind is."""

import numpy as np
from numba import njit

from modelmill.tasks.ingest.main_text.states import IN_BUTTON, IN_HIDDEN, IN_PRE
from modelmill.tasks.ingest.main_text.statistics import (
    AT_SIGNS,
    CAPITALISED,
    CHARACTERS,
    COMMAS,
    COPYRIGHTS,
    CURRENCY,
    DIGIT_GROUPS,
    DIGITS,
    EMPHASIS_CHARACTERS,
    ENDS_COLON,
    ENDS_TERMINAL,
    LETTERS,
    LINK_CHARACTERS,
    LINKS,
    LONGEST_WORD,
    PUNCTUATIONS,
    QUESTION,
    RUNS,
    SEPARATORS,
    SINGLES,
    STARTS_DIGIT,
    STARTS_UPPER,
    TERMINALS,
    UPPERS,
    WORDS,
)
from modelmill.tasks.ingest.main_text.tag_groups import NUM_TAG_GROUPS
from modelmill.tasks.ingest.main_text.vocabulary import NUM_KEYWORDS

_NUM_TEXT = 26
NUM_OWN = _NUM_TEXT + NUM_TAG_GROUPS + NUM_KEYWORDS
_FAR = 20.0  # levels, where there is no such element


@njit(cache=True, nogil=True)
def put_own(features, tag, parent, keywords, state, inner, soft, statistics, groups):
    """Fill the columns before NUM_OWN."""
    for block in range(len(inner)):
        row = features[block]
        _put_text(row, statistics[block], soft[block], state[inner[block]])
        _put_distances(row, _NUM_TEXT, inner[block], tag, parent, keywords, groups)


@njit(cache=True, nogil=True)
def _put_text(row, s, soft, flags):
    """Features of a block's own text."""
    characters = max(s[CHARACTERS], np.float32(1))
    words = max(s[WORDS], np.float32(1))
    row[0] = np.log1p(s[CHARACTERS])
    row[1] = np.log1p(s[WORDS])
    row[2] = characters / words
    row[3] = s[LINK_CHARACTERS] / characters
    row[4] = s[LINKS]
    row[5] = s[UPPERS] / max(s[LETTERS], np.float32(1))
    row[6] = s[CAPITALISED] / words
    row[7] = s[DIGITS] / characters
    row[8] = s[PUNCTUATIONS] / characters
    row[9] = s[COMMAS]
    row[10] = s[TERMINALS]
    row[11] = s[ENDS_TERMINAL]
    row[12] = s[ENDS_COLON]
    row[13] = s[STARTS_UPPER]
    row[14] = s[STARTS_DIGIT]
    row[15] = s[SEPARATORS]
    row[16] = s[COPYRIGHTS]
    row[17] = s[DIGIT_GROUPS]
    row[18] = s[QUESTION]
    row[19] = s[AT_SIGNS] + 10 * min(s[CURRENCY], np.float32(3))
    row[20] = s[EMPHASIS_CHARACTERS] / characters
    row[21] = s[LONGEST_WORD]
    row[22] = s[RUNS]
    row[23] = s[SINGLES] / words
    row[24] = soft
    row[25] = (flags & IN_HIDDEN != 0) + 2 * (flags & IN_BUTTON != 0) + 4 * (flags & IN_PRE != 0)


@njit(cache=True, nogil=True)
def _put_distances(row, first, inner, tag, parent, keywords, groups):
    """Levels from a block up to the nearest element of each group, and to the nearest with each keyword."""
    for column in range(first, first + NUM_TAG_GROUPS + NUM_KEYWORDS):
        row[column] = _FAR
    seen = np.uint64(0)
    level, element = np.float32(0), inner
    while element > 0:
        group = groups[tag[element]]
        if group >= 0 and row[first + group] == _FAR:
            row[first + group] = level
        fresh = keywords[element] & ~seen
        seen |= fresh
        column = first + NUM_TAG_GROUPS
        while fresh:
            if fresh & np.uint64(1):
                row[column] = level
            fresh >>= np.uint64(1)
            column += 1
        level = min(level + 1, np.float32(_FAR - 1))
        element = parent[element]
