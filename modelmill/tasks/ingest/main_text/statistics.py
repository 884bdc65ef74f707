"""Runs of a block → counts of its words, letters, links and signs."""

import numpy as np
from numba import njit

from modelmill.tasks.ingest.main_text.code_points import code_point
from modelmill.tasks.ingest.main_text.reading import OFFSET, PRIME
from modelmill.tasks.ingest.main_text.states import IN_EMPHASIS, IN_LINK, SKIPPED
from modelmill.tasks.text.characters import DIGIT, LETTER, PUNCTUATION, SINGLE, SPACE, TERMINAL, UPPER

# Columns of a block's statistics.
CHARACTERS, WORDS, LINK_CHARACTERS, LINKS, LETTERS, UPPERS, DIGITS, PUNCTUATIONS, COMMAS, TERMINALS, SINGLES = range(11)
ENDS_TERMINAL, ENDS_COLON, STARTS_UPPER, STARTS_DIGIT, SEPARATORS, COPYRIGHTS, DIGIT_GROUPS, QUESTION, AT_SIGNS = range(
    11, 20
)
CAPITALISED, EMPHASIS_CHARACTERS, LONGEST_WORD, RUNS, CURRENCY, HASH_LOW, HASH_HIGH = range(20, 27)
NUM_STATISTICS = 27
_HALF = np.uint64(0xFFFFFF)  # of the hash: as much as a float32 holds


@njit(cache=True, nogil=True)
def describe(content, state, run_start, run_end, run_element, first, last, classes, row):
    """Fill the statistics of the block of runs `[first, last)`, zeros before: (NUM_STATISTICS,) int64.

    Whole numbers, which are counted up in half the time of floating-point ones.
    """
    in_word, after_digit, begins_word, was_link = False, False, True, False
    first_class, last_class, last_code, word_length = -1, 0, 0, 0
    value = OFFSET
    for run in range(first, last):
        flags = state[run_element[run]]
        if flags & SKIPPED:
            continue
        in_link = flags & IN_LINK != 0
        row[LINKS] += in_link and not was_link
        was_link = in_link
        row[RUNS] += 1
        before, position, end = row[CHARACTERS], run_start[run], run_end[run]
        while position < end:
            code, position = code_point(content, position, end)
            of_code = classes[code]
            if of_code & SPACE:
                row[LONGEST_WORD] = max(row[LONGEST_WORD], word_length)
                in_word, after_digit, begins_word, word_length = False, False, True, 0
                continue
            row[CHARACTERS] += 1
            word_length += 1
            value = (value ^ np.uint64(code)) * PRIME
            in_word = _count_word(row, of_code, in_word)
            if of_code & LETTER:
                _count_letter(row, of_code, begins_word)
            elif of_code & DIGIT:
                row[DIGITS] += 1
                row[DIGIT_GROUPS] += not after_digit
            else:
                _count_sign(row, code, of_code)
            begins_word = begins_word and not of_code & (LETTER | DIGIT)
            after_digit = of_code & LETTER == 0 and of_code & DIGIT != 0
            row[TERMINALS] += of_code & TERMINAL != 0
            if first_class < 0:
                first_class = np.int64(of_code)
            last_class, last_code = np.int64(of_code), code
        if in_link:
            row[LINK_CHARACTERS] += row[CHARACTERS] - before
        if flags & IN_EMPHASIS:
            row[EMPHASIS_CHARACTERS] += row[CHARACTERS] - before
    row[LONGEST_WORD] = max(row[LONGEST_WORD], word_length)
    row[ENDS_TERMINAL] = last_class & TERMINAL != 0 or last_code in (0x201D, 34)
    row[ENDS_COLON] = last_code in (58, 0xFF1A)
    row[STARTS_UPPER] = first_class >= 0 and first_class & UPPER != 0
    row[STARTS_DIGIT] = first_class >= 0 and first_class & DIGIT != 0
    row[HASH_LOW] = np.int64(value & _HALF)
    row[HASH_HIGH] = np.int64((value >> np.uint64(24)) & _HALF)


@njit(cache=True, nogil=True)
def _count_word(row, of_code, in_word):
    """Count the word that a character begins or is → whether what follows continues a word."""
    if of_code & SINGLE:
        row[WORDS] += 1
        row[SINGLES] += 1
        return False
    if not in_word and of_code & (LETTER | DIGIT):
        row[WORDS] += 1
        return True
    return in_word


@njit(cache=True, nogil=True)
def _count_letter(row, of_code, begins_word):
    row[LETTERS] += 1
    if of_code & UPPER and not of_code & SINGLE:
        row[UPPERS] += 1
        row[CAPITALISED] += begins_word


@njit(cache=True, nogil=True)
def _count_sign(row, code, of_code):
    """Count a character that is neither letter nor digit, by what menus, prices and prose use it for."""
    if of_code & PUNCTUATION:
        row[PUNCTUATIONS] += 1
    if code in (44, 0xFF0C, 0x3001, 0x60C):  # , ， 、 ،
        row[COMMAS] += 1
    elif code in (124, 0xBB, 0x203A, 0x2022, 0xB7, 0x2192, 62, 47):  # | » › • · → > /
        row[SEPARATORS] += 1
    elif code in (0xA9, 0xAE, 0x2122):  # © ® ™
        row[COPYRIGHTS] += 1
    elif code in (63, 0xFF1F):
        row[QUESTION] += 1
    elif code == 64:
        row[AT_SIGNS] += 1
    elif code in (36, 0x20AC, 0xA3, 0xA5, 0xFFE5):  # $ € £ ¥ ￥
        row[CURRENCY] += 1
