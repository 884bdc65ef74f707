"""Blocks and their statistics → where the running text lies: sums in every element, the densest, a stretch."""

import numpy as np
from numba import njit

from modelmill.tasks.ingest.main_text.statistics import CHARACTERS, COMMAS, LINK_CHARACTERS, TERMINALS, WORDS

# Columns of the sums of an element.
SUM_WORDS, SUM_CHARACTERS, SUM_LINK_CHARACTERS, SUM_BLOCKS, SUM_SIGNS, SUM_LONG = range(6)


@njit(cache=True, nogil=True)
def share(part, whole):
    """Part of a whole, 0 of nothing."""
    return part / whole if whole > 0 else np.float32(0)


@njit(cache=True, nogil=True)
def subtree_sums(parent, element, statistics, count):
    """Sums of what the blocks in each element hold, columns SUM_WORDS to SUM_LONG: (count, 6)."""
    sums = np.zeros((count, 6), np.float32)
    for block in range(len(element)):
        row = sums[element[block]]
        row[SUM_WORDS] += statistics[block, WORDS]
        row[SUM_CHARACTERS] += statistics[block, CHARACTERS]
        row[SUM_LINK_CHARACTERS] += statistics[block, LINK_CHARACTERS]
        row[SUM_BLOCKS] += 1
        row[SUM_SIGNS] += statistics[block, TERMINALS] + statistics[block, COMMAS]
        row[SUM_LONG] += statistics[block, WORDS] >= 15
    for number in range(count - 1, 0, -1):
        for column in range(6):
            sums[parent[number], column] += sums[number, column]
    return sums


@njit(cache=True, nogil=True)
def densest(parent, element, statistics, count):
    """The element whose children and grandchildren hold most running text, as Readability counts it."""
    scores = np.zeros(count, np.float32)
    for block in range(len(element)):
        words = statistics[block, WORDS]
        density = share(statistics[block, LINK_CHARACTERS], statistics[block, CHARACTERS])
        if words < 8 or density > 0.5:
            continue
        score = (1 + statistics[block, COMMAS] + statistics[block, TERMINALS] + min(words / 20, 5)) * (1 - density)
        ancestor = parent[element[block]]
        scores[ancestor] += score
        scores[parent[ancestor]] += score * 0.6
        scores[parent[parent[ancestor]]] += score * 0.3
    return np.argmax(scores)


@njit(cache=True, nogil=True)
def best_stretch(statistics):
    """First and last block of the stretch with the largest sum of words outside links, less those in links."""
    best, total, start, first, last = np.float32(-1e9), np.float32(0), 0, 0, 0
    for block in range(len(statistics)):
        density = share(statistics[block, LINK_CHARACTERS], statistics[block, CHARACTERS])
        if total <= 0:
            total, start = np.float32(0), block
        total += statistics[block, WORDS] * (1 - 2 * density) - 4
        if total > best:
            best, first, last = total, start, block
    return first, last
