"""Words of blocks and of the true main text → how much of each block belongs to it (training only)."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from modelmill.tasks.text.characters import SINGLE, classes

_MAX_CELLS = 400_000_000  # of the alignment, one byte each
_GRAM = 5
_WORD = re.compile(r"\w+")
_RUN_BONUS = 0.5


def words(text: str) -> list[str]:
    """Lower-cased words; characters of scripts without spaces count as a word each."""
    single = classes()
    found: list[str] = []
    for word in _WORD.findall(text.lower()):
        if word.isascii() or not any(single[ord(character)] & SINGLE for character in word):
            found.append(word)
        else:
            found.extend(word)
    return found


def word_f1(found: Counter[str], truth: Counter[str]) -> float:
    """F1 of two multisets of words; 1 where both are empty."""
    total = found.total() + truth.total()
    return 2 * (found & truth).total() / total if total else 1.0


def has_snippet(text: str, snippet: str) -> bool:
    """Whether the words of a snippet stand in a text one after the other; case, punctuation and spaces do not count."""
    return f" {' '.join(words(snippet))} " in f" {' '.join(words(text))} "


def true_shares(blocks: Sequence[Sequence[str]], truth: Sequence[str]) -> NDArray[np.float64]:
    """Share of each block's words on the longest common subsequence of the page and its true text.

    Words that continue a matching run count half as much again, so that scattered common words do not match in
    menus. Pages too large to align take the share of each block's 5-grams that the truth contains.
    """
    lengths = np.array([len(block) for block in blocks], np.int64)
    numbers: dict[str, int] = {}
    page = np.array([numbers.setdefault(word, len(numbers)) for block in blocks for word in block], np.int32)
    target = np.array([numbers.setdefault(word, len(numbers)) for word in truth], np.int32)
    if len(page) * len(target) > _MAX_CELLS:
        return _contained(blocks, truth)
    matched = np.concatenate([[0], np.cumsum(_aligned(page, target))])
    ends = np.cumsum(lengths)
    return (matched[ends] - matched[ends - lengths]) / np.maximum(lengths, 1)


def _contained(blocks: Sequence[Sequence[str]], truth: Sequence[str]) -> NDArray[np.float64]:
    known = set(_grams(truth))
    shares = np.zeros(len(blocks))
    for number, block in enumerate(blocks):
        grams = _grams(block)
        shares[number] = sum(gram in known for gram in grams) / max(len(grams), 1)
    return shares


def _grams(block: Sequence[str]) -> list[tuple[str, ...]]:
    return list(zip(*(block[start:] for start in range(_GRAM)), strict=False))


@njit(cache=True, nogil=True)
def _aligned(page, target):
    """Which words of the page lie on the best alignment."""
    rows, columns = len(page), len(target)
    came_from = np.zeros((rows + 1, columns + 1), np.uint8)
    before, current = np.zeros(columns + 1, np.float32), np.zeros(columns + 1, np.float32)
    run_before, run = np.zeros(columns + 1, np.bool_), np.zeros(columns + 1, np.bool_)
    for i in range(1, rows + 1):
        for j in range(1, columns + 1):
            best, source = before[j], 2
            if current[j - 1] > best:
                best, source = current[j - 1], 3
            run[j] = False
            if page[i - 1] == target[j - 1]:
                score = before[j - 1] + 1 + (_RUN_BONUS if run_before[j - 1] else 0)
                if score >= best:
                    best, source = score, 1
                    run[j] = True
            current[j] = best
            came_from[i, j] = source
        before, current = current, before
        run_before, run = run, run_before
    matched = np.zeros(rows, np.bool_)
    i, j = rows, columns
    while i > 0 and j > 0:
        source = came_from[i, j]
        if source == 1:
            matched[i - 1] = True
            i, j = i - 1, j - 1
        elif source == 2:
            i -= 1
        else:
            j -= 1
    return matched
