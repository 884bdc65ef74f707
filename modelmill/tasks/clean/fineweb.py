"""Texts and their words → FineWeb's verdict on lines (Penedo et al. 2024, section 3.6)."""

from collections.abc import Sequence

import numpy as np
from numba import njit

from modelmill.tasks.clean.config import FineWeb
from modelmill.tasks.clean.traits import LanguageTraits
from modelmill.tasks.clean.verdict import Verdict, above, below, ratio
from modelmill.tasks.text.characters import SPACE, TERMINAL, classes
from modelmill.tasks.text.flat import Characters
from modelmill.tasks.text.words import Words

PRIME = np.uint64(0x9E3779B97F4A7C15)


def fineweb_verdict(texts: Characters, words: Words, traits: Sequence[LanguageTraits], config: FineWeb) -> Verdict:
    """Judge each text by how its lines end, how short they are, and how they repeat. Blank lines do not count."""
    verdict = Verdict(len(texts))
    short = np.array([round(trait.short_line * config.short_line_length) for trait in traits], np.int64)
    lines, ended, shorter, duplicate_characters, newlines = _lines(texts.codes, texts.offsets, classes(), short)
    verdict.drop(lines == 0, "fineweb_empty")
    verdict.drop(below(ratio(ended, lines), config.min_line_punctuation), "fineweb_line_punctuation")
    verdict.drop(above(ratio(shorter, lines), config.max_short_lines), "fineweb_short_lines")
    share = ratio(duplicate_characters, texts.lengths - newlines)
    verdict.drop(above(share, config.max_duplicate_line_characters), "fineweb_duplicate_line_characters")
    verdict.drop(above(ratio(newlines, words.counts), config.max_newlines_per_word), "fineweb_newlines")
    return verdict


@njit(cache=True, nogil=True)
def _line_hash(codes, start, end):
    value = np.uint64(end - start + 1)
    for i in range(start, end):
        value = (value ^ np.uint64(codes[i])) * PRIME
        value ^= value >> np.uint64(32)
    return value


@njit(cache=True, nogil=True)
def _lines(codes, offsets, classes, short_line_length):
    """Per row: lines that are not blank, those with a sentence mark at the end, short ones, characters in repeated
    ones, and newlines."""
    num_rows = len(offsets) - 1
    lines, ended, shorter, duplicate_characters, newlines = np.zeros((5, num_rows), np.int64)
    for row in range(num_rows):
        begin, end = offsets[row], offsets[row + 1]
        seen = set([np.uint64(0)])  # numba infers the element's type from it
        while begin <= end:
            stop, blank = begin, True
            while stop < end and codes[stop] != 10:
                blank = blank and classes[codes[stop]] & SPACE != 0
                stop += 1
            newlines[row] += stop < end
            if not blank:
                lines[row] += 1
                ended[row] += classes[codes[stop - 1]] & TERMINAL != 0
                shorter[row] += stop - begin <= short_line_length[row]
                key = _line_hash(codes, begin, stop)
                if key in seen:
                    duplicate_characters[row] += stop - begin
                seen.add(key)
            begin = stop + 1
    return lines, ended, shorter, duplicate_characters, newlines
