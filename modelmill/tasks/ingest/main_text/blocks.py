"""Elements and runs of text → blocks (a paragraph, heading, cell, line of code ...) and what their text looks like."""

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from modelmill.tasks.ingest.main_text.attributes import HAS_LINK, HIDDEN, MATH_NAME, TEX
from modelmill.tasks.ingest.main_text.parse import Markup
from modelmill.tasks.ingest.main_text.vocabulary import TAG, TAGS
from modelmill.tasks.text.characters import DIGIT, LETTER, PUNCTUATION, SINGLE, SPACE, TERMINAL, UPPER, classes

# Inherited state of an element.
SKIPPED, IN_LINK, IN_HIDDEN, IN_PRE, IN_HEADING, IN_EMPHASIS, IN_BUTTON, IN_FORMULA = 1, 2, 4, 8, 16, 32, 64, 128

# Columns of a block's statistics.
CHARACTERS, WORDS, LINK_CHARACTERS, LINKS, LETTERS, UPPERS, DIGITS, PUNCTUATIONS, COMMAS, TERMINALS, SINGLES = range(11)
ENDS_TERMINAL, ENDS_COLON, STARTS_UPPER, STARTS_DIGIT, SEPARATORS, COPYRIGHTS, DIGIT_GROUPS, QUESTION, AT_SIGNS = range(
    11, 20
)
CAPITALISED, EMPHASIS_CHARACTERS, LONGEST_WORD, RUNS, CURRENCY, HASH_LOW, HASH_HIGH = range(20, 27)
NUM_STATISTICS = 27

_SKIPPED_TAGS = (
    "head", "script", "style", "template", "svg", "textarea", "iframe", "object", "canvas", "select",
    "noembed", "noframes", "audio", "video", "map", "datalist" if "datalist" in TAG else "option",
)  # fmt: skip
_INLINE_TAGS = (
    "span", "a", "b", "strong", "i", "em", "u", "small", "sub", "sup", "mark", "code", "kbd", "samp", "tt", "var", "q",
    "cite", "font", "abbr", "del", "ins", "s", "strike", "big", "time", "other", "wbr", "img", "math", "annotation",
    "semantics", "link", "meta", "script", "style", "template", "svg", "picture", "source", "label", "input",
    "map", "area", "param", "track",
)  # fmt: skip
_HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")


def _flags(names: tuple[str, ...]) -> NDArray[np.bool_]:
    flags = np.zeros(len(TAGS), np.bool_)
    flags[[TAG[name] for name in names]] = True
    flags.flags.writeable = False
    return flags


_IS_SKIPPED, _IS_INLINE, _IS_HEADING = _flags(_SKIPPED_TAGS), _flags(_INLINE_TAGS), _flags(_HEADINGS)
_IS_EMPHASIS = _flags(("b", "strong", "em", "mark"))
_A, _PRE, _BUTTON, _MATH, _ANNOTATION, _SCRIPT, _IMG, _BR, _TEXTAREA, _LISTING, _XMP = (
    TAG[name]
    for name in ("a", "pre", "button", "math", "annotation", "script", "img", "br", "textarea", "listing", "xmp")
)
SOFT, HARD = 1, 2


@dataclass(frozen=True)
class Blocks:
    """The blocks of a page, in order.

    first, last: runs of each block, `[first, last)`. element: the innermost element that is no inline one. inner: the
    element of its first run. soft: whether only a line break parts it from the block before. statistics: (blocks,
    NUM_STATISTICS) float32. state: inherited flags of every element of the page.
    """

    first: NDArray[np.int32]
    last: NDArray[np.int32]
    element: NDArray[np.int32]
    inner: NDArray[np.int32]
    soft: NDArray[np.bool_]
    statistics: NDArray[np.float32]
    state: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.first)


def found_blocks(page: Markup) -> Blocks:
    """Cut a page into blocks; text that is never shown (scripts, styles, templates ...) is in none."""
    state = _states(page.tag, page.parent, page.flags)
    arrays = _blocks(
        page.content, page.tag, page.parent, page.last, state,
        page.run_start, page.run_end, page.run_element, page.run_before, classes(),
    )  # fmt: skip
    return Blocks(*arrays, state)


@njit(cache=True, nogil=True)
def _states(tag, parent, flags):
    count = len(tag)
    state = np.zeros(count, np.uint8)
    has_source = np.zeros(count, np.bool_)  # math elements that carry their TeX
    for element in range(1, count):
        if tag[element] == _ANNOTATION and flags[element] & TEX:
            ancestor = parent[element]
            while ancestor > 0 and tag[ancestor] != _MATH:
                ancestor = parent[ancestor]
            has_source[ancestor] = True
    for element in range(1, count):
        number, own = tag[element], flags[element]
        value = state[parent[element]]
        if _IS_SKIPPED[number]:
            value |= SKIPPED
        if number == _A and own & HAS_LINK:
            value |= IN_LINK
        elif number == _PRE or number == _LISTING or number == _XMP:
            value |= IN_PRE
        elif _IS_HEADING[number]:
            value |= IN_HEADING
        elif _IS_EMPHASIS[number]:
            value |= IN_EMPHASIS
        elif number == _BUTTON:
            value |= IN_BUTTON
        elif number == _MATH and has_source[element]:
            value |= SKIPPED | IN_FORMULA
        elif number == _ANNOTATION:
            if own & TEX and value & IN_FORMULA:
                value &= ~np.uint8(SKIPPED)
            else:
                value |= SKIPPED
        elif number == _SCRIPT and own & TEX:
            value &= ~np.uint8(SKIPPED)
            value |= IN_FORMULA
        if own & HIDDEN:
            # A formula drawn a second time for the eye, beside its readable form.
            if own & MATH_NAME:
                value |= SKIPPED
            if not value & IN_FORMULA:
                value |= IN_HIDDEN
        state[element] = value
    return state


@njit(cache=True, nogil=True)
def _is_blank(content, start, end):
    for i in range(start, end):
        byte = content[i]
        if not (byte == 32 or 9 <= byte <= 13):
            return False
    return True


@njit(cache=True, nogil=True)
def _boundary(previous, run, tag, parent, last, state, run_element, run_before):
    """0 where two runs stand in one block, SOFT where a line break parts them, HARD where a block ends or begins."""
    result = 0
    for element in range(run_before[previous], run_before[run]):
        number = tag[element]
        if number == _BR:
            result = max(result, SOFT)
        elif not _IS_INLINE[number] and not state[element] & SKIPPED:
            return HARD
    ancestor = run_element[previous]
    while ancestor > 0 and last[ancestor] < run_before[run] and not _holds(ancestor, run_element[run], last):
        if not _IS_INLINE[tag[ancestor]]:
            return HARD
        ancestor = parent[ancestor]
    return result


@njit(cache=True, nogil=True)
def _holds(ancestor, element, last):
    return ancestor <= element <= last[ancestor]


@njit(cache=True, nogil=True)
def _blocks(content, tag, parent, last, state, run_start, run_end, run_element, run_before, classes):
    num_runs = len(run_start)
    first = np.zeros(num_runs, np.int32)
    stop = np.zeros(num_runs, np.int32)
    soft = np.zeros(num_runs, np.bool_)
    count, previous = 0, -1
    for run in range(num_runs):
        if state[run_element[run]] & SKIPPED or _is_blank(content, run_start[run], run_end[run]):
            continue
        kind = HARD
        if previous >= 0:
            kind = _boundary(previous, run, tag, parent, last, state, run_element, run_before)
            if kind == SOFT and state[run_element[run]] & IN_PRE:
                kind = 0
        if kind:
            first[count], stop[count], soft[count] = run, run + 1, kind == SOFT
            count += 1
        else:
            stop[count - 1] = run + 1
        previous = run
    element = np.zeros(count, np.int32)
    inner = np.zeros(count, np.int32)
    statistics = np.zeros((count, NUM_STATISTICS), np.float32)
    for block in range(count):
        inner[block] = run_element[first[block]]
        # What all runs of the block lie in, and of that the innermost element that is no inline one.
        outer = inner[block]
        while outer > 0 and (_IS_INLINE[tag[outer]] or not _holds(outer, run_element[stop[block] - 1], last)):
            outer = parent[outer]
        element[block] = outer
        _describe(
            content, state, run_start, run_end, run_element, first[block], stop[block], classes, statistics[block]
        )
    return first[:count].copy(), stop[:count].copy(), element, inner, soft[:count].copy(), statistics


@njit(cache=True, nogil=True)
def _decoded(content, position, end):
    """Code point at a position of UTF-8 or of a character reference, and where the next begins."""
    byte = np.int64(content[position])
    if byte == 38:  # & ... ;
        stop = position + 1
        while (
            stop < end and stop - position < 12 and content[stop] != 59 and content[stop] > 32 and content[stop] != 38
        ):
            stop += 1
        if stop < end and content[stop] == 59 and stop > position + 1:
            value = np.int64(0)
            if content[position + 1] == 35 and stop > position + 2:
                hexadecimal = content[position + 2] | 32 == 120
                for i in range(position + 3 if hexadecimal else position + 2, stop):
                    digit = np.int64(content[i])
                    digit = digit - 48 if 48 <= digit <= 57 else (digit | 32) - 87
                    value = min(value * (16 if hexadecimal else 10) + max(digit, 0), 0x10FFFF)
                return value, stop + 1
            if stop == position + 5 and content[position + 1] == 110 and content[position + 2] == 98:  # nbsp
                return np.int64(160), stop + 1
            if stop == position + 5 and content[position + 1] == 99 and content[position + 2] == 111:  # copy
                return np.int64(169), stop + 1
            if stop == position + 6 and content[position + 1] == 114 and content[position + 2] == 97:  # raquo
                return np.int64(187), stop + 1
            if content[position + 2] == 115 or content[position + 1] == 113 or content[position + 1] == 108:  # quotes
                return np.int64(0x201D), stop + 1
            return np.int64(0xE9), stop + 1  # some letter: most other names are letters with accents
        return byte, position + 1
    if byte < 0x80:
        return byte, position + 1
    length = 2 if byte < 0xE0 else (3 if byte < 0xF0 else 4)
    value = byte & (0x1F if length == 2 else (0x0F if length == 3 else 0x07))
    stop = min(position + length, end)
    for i in range(position + 1, stop):
        value = (value << 6) | (content[i] & 0x3F)
    return min(value, 0x10FFFF), stop


@njit(cache=True, nogil=True)
def _describe(content, state, run_start, run_end, run_element, first, last, classes, row):
    in_word, first_flags, previous_flags, last_code = False, -1, 0, 0
    word_length = 0
    was_link, after_digit, begins_word = False, False, True
    low = np.uint64(0xCBF29CE484222325)
    for run in range(first, last):
        flags = state[run_element[run]]
        if flags & SKIPPED:
            continue
        in_link = flags & IN_LINK != 0
        if in_link and not was_link:
            row[LINKS] += 1
        was_link = in_link
        row[RUNS] += 1
        position, end = run_start[run], run_end[run]
        while position < end:
            code, position = _decoded(content, position, end)
            of_code = classes[code]
            if of_code & SPACE:
                in_word = False
                begins_word = True
                row[LONGEST_WORD] = max(row[LONGEST_WORD], word_length)
                word_length = 0
                after_digit = False
                continue
            row[CHARACTERS] += 1
            low = (low ^ np.uint64(code)) * np.uint64(0x100000001B3)
            if in_link:
                row[LINK_CHARACTERS] += 1
            if flags & IN_EMPHASIS:
                row[EMPHASIS_CHARACTERS] += 1
            if of_code & SINGLE:
                row[WORDS] += 1
                row[SINGLES] += 1
                in_word = False
            elif (not in_word and of_code & LETTER) or (not in_word and of_code & DIGIT):
                row[WORDS] += 1
                in_word = True
            word_length += 1
            if of_code & LETTER:
                row[LETTERS] += 1
                if of_code & UPPER and not of_code & SINGLE:
                    row[UPPERS] += 1
                    if begins_word:
                        row[CAPITALISED] += 1
                begins_word = False
                after_digit = False
            elif of_code & DIGIT:
                row[DIGITS] += 1
                if not after_digit:
                    row[DIGIT_GROUPS] += 1
                after_digit = True
                begins_word = False
            else:
                after_digit = False
                if of_code & PUNCTUATION:
                    row[PUNCTUATIONS] += 1
                if code == 44 or code == 0xFF0C or code == 0x3001 or code == 0x60C:
                    row[COMMAS] += 1
                elif (
                    code == 124
                    or code == 0xBB
                    or code == 0x203A
                    or code == 0x2022
                    or code == 0xB7
                    or code == 0x2192
                    or code == 62
                    or code == 47
                ):
                    row[SEPARATORS] += 1
                elif code == 0xA9 or code == 0xAE or code == 0x2122:
                    row[COPYRIGHTS] += 1
                elif code == 63 or code == 0xFF1F:
                    row[QUESTION] += 1
                elif code == 64:
                    row[AT_SIGNS] += 1
                elif code == 36 or code == 0x20AC or code == 0xA3 or code == 0xA5 or code == 0xFFE5:
                    row[CURRENCY] += 1
            if of_code & TERMINAL:
                row[TERMINALS] += 1
            if first_flags < 0:
                first_flags = np.int64(of_code)
            previous_flags = np.int64(of_code)
            last_code = code
    row[LONGEST_WORD] = max(row[LONGEST_WORD], word_length)
    row[ENDS_TERMINAL] = previous_flags & TERMINAL != 0 or last_code == 0x201D or last_code == 34
    row[ENDS_COLON] = last_code == 58 or last_code == 0xFF1A
    row[STARTS_UPPER] = first_flags >= 0 and first_flags & UPPER != 0
    row[STARTS_DIGIT] = first_flags >= 0 and first_flags & DIGIT != 0
    row[HASH_LOW] = np.float32(low & np.uint64(0xFFFFFF))
    row[HASH_HIGH] = np.float32((low >> np.uint64(24)) & np.uint64(0xFFFFFF))
