"""Texts → texts without the lines that C4's rules remove, and the pages that they drop (Raffel et al. 2020)."""

from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from modelmill.tasks.clean.config import C4
from modelmill.tasks.clean.traits import LanguageTraits
from modelmill.tasks.clean.verdict import Verdict, below
from modelmill.tasks.text.characters import LINE_END, PUNCTUATION, SINGLE, SPACE, TERMINAL, classes
from modelmill.tasks.text.flat import Characters
from modelmill.tasks.text.words import Words

LOREM_IPSUM, CURLY_BRACKET = 1, 2
_LOREM_IPSUM, _JAVASCRIPT, _BRACKET, _POLICY = 1, 2, 4, 8
_POLICIES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
_WIDTH = 20


def _phrases(phrases: Sequence[str]) -> NDArray[np.uint32]:
    table = np.zeros((len(phrases), _WIDTH), np.uint32)
    for row, phrase in enumerate(phrases):
        table[row, : len(phrase)] = [ord(character) for character in phrase]
    return table


_CITATIONS = _phrases(("[edit]", "[citation needed]"))


def edited_lines(
    texts: Characters, traits: Sequence[LanguageTraits], config: C4
) -> tuple[Characters, NDArray[np.uint8]]:
    """Remove lines by the recipe's rules → the new texts, and flags of pages to drop (LOREM_IPSUM, CURLY_BRACKET).

    Lines are stripped and joined by newlines. In languages with their own sentence marks those count as ends too.
    """
    own_terminals = np.array([trait.own_terminals for trait in traits], bool)
    wanted = {
        _LOREM_IPSUM: ("lorem ipsum",) if config.drop_lorem_ipsum else (),
        _JAVASCRIPT: ("javascript",) if config.remove_javascript_lines else (),
        _BRACKET: ("{",) if config.drop_curly_bracket else (),
        _POLICY: _POLICIES if config.remove_policy_lines else (),
    }
    phrases = [(phrase, kind) for kind, listed in wanted.items() for phrase in listed]
    codes, offsets, flags = _edit(
        texts.codes,
        texts.offsets,
        classes(),
        own_terminals,
        _phrases([phrase for phrase, _ in phrases]),
        np.array([kind for _, kind in phrases], np.int64),
        config.require_terminal_punctuation,
        config.min_words_per_line or 0,
        config.max_word_length or np.iinfo(np.int64).max,
        config.remove_citations,
    )
    return Characters(codes, offsets), flags


def c4_verdict(edited: Characters, words: Words, flags: NDArray[np.uint8], config: C4) -> Verdict:
    """Judge texts after `edited_lines`, whose flags are given."""
    verdict = Verdict(len(edited))
    verdict.drop(flags == LOREM_IPSUM, "c4_lorem_ipsum")
    verdict.drop(flags == CURLY_BRACKET, "c4_curly_bracket")
    sentences = _num_sentences(edited.codes, edited.offsets, words.starts, words.ends, words.offsets, classes())
    verdict.drop(below(sentences, config.min_sentences), "c4_too_few_sentences")
    verdict.drop(edited.lengths == 0, "c4_no_line_left")
    return verdict


@njit(cache=True, nogil=True)
def _lower(code):
    return code + np.uint32(32) if 65 <= code <= 90 else code


@njit(cache=True, nogil=True)
def _beginnings(phrases):
    """Which pairs of ASCII characters begin a phrase, in either case: a glance that spares most positions the
    comparison."""
    beginnings = np.zeros((128, 128), np.bool_)
    for row in range(len(phrases)):
        for first in range(128):
            for second in range(128):
                if _lower(np.uint32(first)) == phrases[row, 0]:
                    beginnings[first, second] |= not phrases[row, 1] or _lower(np.uint32(second)) == phrases[row, 1]
    return beginnings


@njit(cache=True, nogil=True)
def _kinds_in(codes, start, end, phrases, kinds, beginnings):
    """The kinds of all phrases (lower-case ASCII) that the stretch contains, ignoring case, as one set of bits."""
    found = 0
    for position in range(start, end):
        first, second = codes[position], codes[position + 1] if position + 1 < end else np.uint32(0)
        if first >= 128 or not beginnings[first, second if second < 128 else np.uint32(0)]:
            continue
        for row in range(len(phrases)):
            matched = 0
            while matched < _WIDTH and phrases[row, matched] and position + matched < end:
                if _lower(codes[position + matched]) != phrases[row, matched]:
                    break
                matched += 1
            if matched == _WIDTH or not phrases[row, matched]:
                found |= kinds[row]
    return found


@njit(cache=True, nogil=True)
def _citation_length(codes, position, end):
    """Length of [12], [], [edit] or [citation needed] at a position with a bracket, 0 for another bracket."""
    stop = position + 1
    while stop < end and 48 <= codes[stop] <= 57:
        stop += 1
    if stop < end and codes[stop] == 93:
        return stop + 1 - position
    for row in range(len(_CITATIONS)):
        matched = 0
        while position + matched < end and codes[position + matched] == _CITATIONS[row, matched]:
            matched += 1
        if not _CITATIONS[row, matched]:  # the end of the phrase, which matches no character of a line
            return matched
    return 0


@njit(cache=True, nogil=True)
def _line_words(codes, start, end, classes):
    """Number of words between white space and length of the longest; characters without spaces count each."""
    count, longest, length = 0, 0, 0
    for i in range(start, end):
        flags = classes[codes[i]]
        if flags & SPACE:
            length = 0
            continue
        count += 1 if length == 0 or flags & SINGLE else 0
        length = length + 1 if not flags & SINGLE else 1
        longest = max(longest, length)
    return count, longest


@njit(cache=True, nogil=True)
def _ends_sentence(codes, start, end, classes, own_terminals):
    if start == end:
        return False
    last = codes[end - 1]
    if last == 46:
        return not (end - start >= 3 and codes[end - 2] == 46 and codes[end - 3] == 46)
    if last in (63, 33, 34, 39):  # ? ! " '
        return True
    # ” ’ 」 』 and the sentence ends of other scripts
    return own_terminals and (last in (0x201D, 0x2019, 0x300D, 0x300F) or classes[last] & TERMINAL != 0)


@njit(cache=True, nogil=True)
def _stripped(codes, first, last, classes):
    """The stretch without white space at its ends."""
    while first < last and classes[codes[first]] & SPACE:
        first += 1
    while last > first and classes[codes[last - 1]] & SPACE:
        last -= 1
    return first, last


@njit(cache=True, nogil=True)
def _copy_line(codes, first, last, edited, count, remove_citations):
    """Copy a line to `edited` at `count`, without citations if so asked; returns where it ends."""
    position = first
    while position < last:
        code = codes[position]
        skipped = _citation_length(codes, position, last) if code == 91 and remove_citations else 0
        position += skipped
        if not skipped:
            edited[count] = code
            count += 1
            position += 1
    return count


@njit(cache=True, nogil=True)
def _edit(
    codes, offsets, classes, own_terminals, phrases, kinds,
    require_terminal, min_words, max_length, remove_citations,
):  # fmt: skip
    num_rows = len(offsets) - 1
    edited = np.empty(len(codes) + num_rows, np.uint32)
    edited_offsets = np.zeros(num_rows + 1, np.int64)
    flags = np.zeros(num_rows, np.uint8)
    beginnings = _beginnings(phrases)
    count = 0
    for row in range(num_rows):
        row_start = count
        begin, end = offsets[row], offsets[row + 1]
        while begin < end and not flags[row]:
            stop = begin
            while stop < end and not classes[codes[stop]] & LINE_END:
                stop += 1
            first, last = _stripped(codes, begin, stop, classes)
            begin = stop + 1
            num_words, longest = _line_words(codes, first, last, classes)
            if longest > max_length or num_words < min_words:
                continue
            line_start = count + 1 if count > row_start else count
            line_end = _copy_line(codes, first, last, edited, line_start, remove_citations)
            if require_terminal and not _ends_sentence(edited, line_start, line_end, classes, own_terminals[row]):
                continue
            found = _kinds_in(edited, line_start, line_end, phrases, kinds, beginnings)
            if found & _LOREM_IPSUM:
                flags[row] = LOREM_IPSUM
            elif found & _JAVASCRIPT:
                continue
            elif found & _BRACKET:
                flags[row] = CURLY_BRACKET
            elif line_end > line_start and not found & _POLICY:
                if line_start > count:
                    edited[count] = 10
                count = line_end
        edited_offsets[row + 1] = count
    return edited[:count].copy(), edited_offsets, flags


@njit(cache=True, nogil=True)
def _num_sentences(codes, offsets, starts, ends, word_offsets, classes):
    """Sentences per row: in each line, one more than the sentence marks that something other than marks follows."""
    num_rows = len(offsets) - 1
    sentences = np.zeros(num_rows, np.int64)
    for row in range(num_rows):
        position = offsets[row]
        after_mark, in_line = False, False
        for word in range(word_offsets[row], word_offsets[row + 1]):
            while position < starts[word]:
                if codes[position] == 10:
                    after_mark, in_line = False, False
                position += 1
            is_mark = ends[word] - starts[word] == 1 and classes[codes[starts[word]]] & TERMINAL != 0
            is_punctuation = True
            for i in range(starts[word], ends[word]):
                is_punctuation = is_punctuation and classes[codes[i]] & PUNCTUATION != 0
            sentences[row] += not in_line
            in_line = True
            if is_mark:
                after_mark = True
            elif after_mark and not is_punctuation:
                sentences[row] += 1
                after_mark = False
    return sentences
