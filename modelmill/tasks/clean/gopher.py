"""Texts and their words → Gopher's document statistics and verdict (Rae et al. 2021, section A.1.1)."""

from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from modelmill.tasks.clean.config import GopherQuality
from modelmill.tasks.clean.traits import LanguageTraits
from modelmill.tasks.clean.verdict import Verdict, above, below, ratio
from modelmill.tasks.text.characters import LETTER, LINE_END, SPACE, SYMBOL, classes
from modelmill.tasks.text.flat import Characters
from modelmill.tasks.text.hashing import hash_word
from modelmill.tasks.text.words import Words

MAX_STOP_WORDS = 32


def gopher_verdict(texts: Characters, words: Words, traits: Sequence[LanguageTraits], config: GopherQuality) -> Verdict:
    """Judge each text by its words, lines and symbols. `traits` are those of each text's language."""
    verdict = Verdict(len(texts))
    table = classes()
    content, characters, alphabetic = _word_statistics(texts.codes, words.starts, words.ends, words.offsets, table)
    verdict.drop(below(content, config.min_words), "gopher_too_few_words")
    verdict.drop(above(content, config.max_words), "gopher_too_many_words")
    mean_length = ratio(characters, content)
    if (least := config.min_mean_word_length) is not None:
        own = [trait.min_word_length or least * min(1, trait.word_length) for trait in traits]
        verdict.drop(mean_length < np.array(own), "gopher_words_too_short")
    if (most := config.max_mean_word_length) is not None:
        own = [most * max(1, trait.word_length) for trait in traits]
        verdict.drop(mean_length > np.array(own), "gopher_words_too_long")
    lines, bullets, ellipsis_lines, hashes, ellipses = _line_statistics(texts.codes, texts.offsets, table)
    verdict.drop(above(ratio(hashes, words.counts), config.max_symbol_word_ratio), "gopher_too_many_hashes")
    verdict.drop(above(ratio(ellipses, words.counts), config.max_symbol_word_ratio), "gopher_too_many_ellipses")
    verdict.drop(above(ratio(bullets, lines), config.max_bullet_lines), "gopher_too_many_bullet_lines")
    verdict.drop(above(ratio(ellipsis_lines, lines), config.max_ellipsis_lines), "gopher_too_many_ellipsis_lines")
    verdict.drop(below(ratio(alphabetic, words.counts), config.min_alphabetic_words), "gopher_too_few_alphabetic_words")
    if config.min_stop_words is not None:
        stop_words, judged = _stop_word_table(traits)
        found = _num_stop_words(words.hashes, words.offsets, stop_words)
        verdict.drop(judged & (found < config.min_stop_words), "gopher_too_few_stop_words")
    return verdict


def _stop_word_table(traits: Sequence[LanguageTraits]) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Hashes of each row's stop words, padded with 0 (rows × MAX_STOP_WORDS), and which rows have a list."""
    lists = {trait.stop_words for trait in traits}
    hashes = {words: [hash_word(word) for word in words[:MAX_STOP_WORDS]] for words in lists}
    table = np.zeros((len(traits), MAX_STOP_WORDS), np.uint64)
    for row, trait in enumerate(traits):
        table[row, : len(hashes[trait.stop_words])] = hashes[trait.stop_words]
    return table, table[:, 0] != 0


@njit(cache=True, nogil=True)
def _word_statistics(codes, starts, ends, offsets, classes):
    """Per row: words that are not only symbols, their characters, and words with a letter."""
    num_rows = len(offsets) - 1
    content = np.zeros(num_rows, np.int64)
    characters = np.zeros(num_rows, np.int64)
    alphabetic = np.zeros(num_rows, np.int64)
    for row in range(num_rows):
        for word in range(offsets[row], offsets[row + 1]):
            only_symbols, has_letter = True, False
            for i in range(starts[word], ends[word]):
                flags = classes[codes[i]]
                only_symbols = only_symbols and flags & SYMBOL != 0
                has_letter = has_letter or flags & LETTER != 0
            alphabetic[row] += has_letter
            if not only_symbols:
                content[row] += 1
                characters[row] += ends[word] - starts[word]
    return content, characters, alphabetic


@njit(cache=True, nogil=True)
def _ends_in_ellipsis(codes, start, end):
    if end > start and codes[end - 1] == 0x2026:
        return True
    return end - start >= 3 and codes[end - 1] == 46 and codes[end - 2] == 46 and codes[end - 3] == 46


@njit(cache=True, nogil=True)
def _line_statistics(codes, offsets, classes):
    """Per row: lines, lines that begin with a bullet, lines that end in an ellipsis, hash signs, ellipses."""
    num_rows = len(offsets) - 1
    lines, bullets, ellipsis_lines, hashes, ellipses = np.zeros((5, num_rows), np.int64)
    for row in range(num_rows):
        begin, end = offsets[row], offsets[row + 1]
        dots, num_hashes, num_ellipses = 0, 0, 0
        for i in range(begin, end):
            code = codes[i]
            num_hashes += code == 35
            num_ellipses += code == 0x2026
            dots = dots + 1 if code == 46 else 0
            if dots == 3:
                num_ellipses += 1
                dots = 0
        hashes[row], ellipses[row] = num_hashes, num_ellipses
        while begin < end:
            stop = begin
            while stop < end and not classes[codes[stop]] & LINE_END:
                stop += 1
            first, last = begin, stop
            while first < last and classes[codes[first]] & SPACE:
                first += 1
            while last > first and classes[codes[last - 1]] & SPACE:
                last -= 1
            lines[row] += 1
            bullets[row] += first < last and (codes[first] == 45 or codes[first] == 0x2022)
            ellipsis_lines[row] += _ends_in_ellipsis(codes, first, last)
            begin = stop + 2 if stop + 1 < end and codes[stop] == 13 and codes[stop + 1] == 10 else stop + 1
    return lines, bullets, ellipsis_lines, hashes, ellipses


@njit(cache=True, nogil=True)
def _num_stop_words(hashes, offsets, stop_words):
    """Per row: how many different words of its stop word list occur in it."""
    num_rows = len(offsets) - 1
    found = np.zeros(num_rows, np.int64)
    for row in range(num_rows):
        seen = np.uint64(0)
        for word in range(offsets[row], offsets[row + 1]):
            for position in range(stop_words.shape[1]):
                if stop_words[row, position] == 0:
                    break
                if stop_words[row, position] == hashes[word]:
                    seen |= np.uint64(1) << np.uint64(position)
        while seen:
            found[row] += 1
            seen &= seen - np.uint64(1)
    return found
