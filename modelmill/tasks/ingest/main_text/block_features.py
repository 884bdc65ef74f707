"""Elements and blocks of a page → one row of features for each block, which tell whether it is main text.

None of the features knows a language: they are lengths, shares, positions, HTML's own names, and stems in class names,
which authors of pages in all languages take from English.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from modelmill.tasks.ingest.main_text.blocks import Blocks
from modelmill.tasks.ingest.main_text.own_features import NUM_OWN, put_own
from modelmill.tasks.ingest.main_text.parse import Markup
from modelmill.tasks.ingest.main_text.repetition import grouped, sibling_keys, templates, text_keys
from modelmill.tasks.ingest.main_text.states import IN_HEADING
from modelmill.tasks.ingest.main_text.statistics import (
    CHARACTERS,
    COMMAS,
    ENDS_TERMINAL,
    LINK_CHARACTERS,
    TERMINALS,
    WORDS,
)
from modelmill.tasks.ingest.main_text.tag_groups import GROUP_OF_TAG
from modelmill.tasks.ingest.main_text.text_mass import (
    SUM_BLOCKS,
    SUM_CHARACTERS,
    SUM_LINK_CHARACTERS,
    SUM_LONG,
    SUM_SIGNS,
    SUM_WORDS,
    best_stretch,
    densest,
    share,
    subtree_sums,
)
from modelmill.tasks.ingest.main_text.vocabulary import TAG, tag_flags

_LEVELS = (1, 2, 3, 4, 6, 8)  # up from a block, counted in elements that are no inline ones
_OFFSETS = (-3, -2, -1, 1, 2, 3)  # of the neighbours that are looked at
_WIDTHS = (4, 12)  # of the windows, in blocks to either side
_FAR = 20.0  # levels, where there is no such element
_NO_HEADING = 999
_H1, _H6 = TAG["h1"], TAG["h6"]
_IS_BLOCK = ~tag_flags(("span", "a", "b", "strong", "i", "em", "font", "other", "u", "small"))
_IS_BLOCK.flags.writeable = False

# Where the columns of each part begin.
_NUM_OF_LEVEL, _NUM_OF_NEIGHBOUR, _NUM_OF_WINDOW = 6, 7, 3
_POSITION = NUM_OWN
_SURROUNDINGS = _POSITION + 14
_NEIGHBOURS = _SURROUNDINGS + _NUM_OF_LEVEL * len(_LEVELS)
_WINDOWS = _NEIGHBOURS + _NUM_OF_NEIGHBOUR * len(_OFFSETS)
_REPETITION = _WINDOWS + _NUM_OF_WINDOW * len(_WIDTHS)
_PAGE = _REPETITION + 14
NUM_BLOCK_FEATURES = _PAGE + 9


def block_features(page: Markup, blocks: Blocks) -> NDArray[np.float32]:
    """Features of each block: (blocks, NUM_BLOCK_FEATURES)."""
    features = np.zeros((len(blocks), NUM_BLOCK_FEATURES), np.float32)
    if len(blocks):
        sums = subtree_sums(page.parent, blocks.element, blocks.statistics, len(page.tag))
        put_own(
            features, page.tag, page.parent, page.keywords, blocks.state, blocks.inner, blocks.soft,
            blocks.statistics, GROUP_OF_TAG,
        )  # fmt: skip
        _put_places(
            features, page.tag, page.parent, page.depth, page.last, blocks.state, blocks.element, blocks.inner,
            blocks.statistics, sums,
        )  # fmt: skip
        _put_alike(
            features, page.tag, page.parent, page.last, page.signature, blocks.element, blocks.inner,
            blocks.statistics, sums, GROUP_OF_TAG,
        )  # fmt: skip
    return features


@njit(cache=True, nogil=True)
def _put_places(features, tag, parent, depth, last, state, element, inner, statistics, sums):
    """Columns of where each block stands, what it lies in, what is around it, and of the page."""
    num_blocks = len(element)
    total_words = max(sums[0, SUM_WORDS], np.float32(1))
    dense = densest(parent, element, statistics, len(tag))
    stretch = best_stretch(statistics)
    h1_block, words_at_h1 = _first_h1(tag, element, statistics)
    words_before, heading_block, words_at_heading = np.float32(0), -1, np.float32(0)
    for block in range(num_blocks):
        row, number = features[block], element[block]
        row[_POSITION] = block / num_blocks
        row[_POSITION + 1] = words_before / total_words
        row[_POSITION + 2] = depth[number]
        row[_POSITION + 3] = block - h1_block if h1_block >= 0 else -_NO_HEADING
        row[_POSITION + 4] = (words_before - words_at_h1) / total_words if h1_block >= 0 else -1
        row[_POSITION + 5] = block - heading_block if heading_block >= 0 else _NO_HEADING
        row[_POSITION + 6] = np.log1p(words_before - words_at_heading)
        row[_POSITION + 7] = tag[element[heading_block]] if heading_block >= 0 else 0
        _put_distance(row, block, number, stretch, dense, parent, depth, last)
        _put_surroundings(row, number, tag, parent, sums, total_words)
        for i in range(len(_WIDTHS)):
            _put_window(row, _WINDOWS + _NUM_OF_WINDOW * i, block, _WIDTHS[i], statistics, state, inner)
        _put_page(row, sums, dense, stretch, total_words, num_blocks)
        words_before += statistics[block, WORDS]
        if state[inner[block]] & IN_HEADING and _H1 <= tag[number] <= _H6:
            heading_block, words_at_heading = block, words_before


@njit(cache=True, nogil=True)
def _first_h1(tag, element, statistics):
    """The first block that is an h1 and has words, or -1, and the number of words before it."""
    words = np.float32(0)
    for block in range(len(element)):
        if tag[element[block]] == _H1 and statistics[block, WORDS] > 0:
            return block, words
        words += statistics[block, WORDS]
    return -1, words


@njit(cache=True, nogil=True)
def _put_distance(row, block, number, stretch, dense, parent, depth, last):
    """Distance to the best stretch of blocks, and over the common ancestor to the densest element."""
    first_of_stretch, last_of_stretch = stretch
    row[_POSITION + 8] = block - first_of_stretch
    row[_POSITION + 9] = last_of_stretch - block
    row[_POSITION + 10] = first_of_stretch <= block <= last_of_stretch
    common, _ = _common(dense, number, parent, last)
    row[_POSITION + 11] = depth[dense] - depth[common]
    row[_POSITION + 12] = depth[number] - depth[common]
    row[_POSITION + 13] = dense <= number <= last[dense]


@njit(cache=True, nogil=True)
def _common(one, other, parent, last):
    """The innermost element that holds both, and how many levels above the first it is."""
    steps = 0
    while not one <= other <= last[one]:
        one = parent[one]
        steps += 1
    return one, steps


@njit(cache=True, nogil=True)
def _put_surroundings(row, number, tag, parent, sums, total_words):
    """What the elements above a block hold."""
    level, column = 0, _SURROUNDINGS
    for wanted in _LEVELS:
        while level < wanted and number > 0:
            number = parent[number]
            if _IS_BLOCK[tag[number]]:
                level += 1
        of = sums[number]
        row[column] = np.log1p(of[SUM_WORDS])
        row[column + 1] = share(of[SUM_LINK_CHARACTERS], of[SUM_CHARACTERS])
        row[column + 2] = np.log1p(of[SUM_BLOCKS])
        row[column + 3] = share(of[SUM_WORDS], of[SUM_BLOCKS])
        row[column + 4] = of[SUM_WORDS] / total_words
        row[column + 5] = share(of[SUM_SIGNS], of[SUM_WORDS])
        column += _NUM_OF_LEVEL


@njit(cache=True, nogil=True)
def _put_window(row, column, block, width, statistics, state, inner):
    """Words, links and headings of the blocks around one."""
    words, characters, in_links, headings = np.float32(0), np.float32(0), np.float32(0), 0
    for other in range(max(block - width, 0), min(block + width + 1, len(statistics))):
        words += statistics[other, WORDS]
        characters += statistics[other, CHARACTERS]
        in_links += statistics[other, LINK_CHARACTERS]
        headings += state[inner[other]] & IN_HEADING != 0
    row[column] = np.log1p(words)
    row[column + 1] = share(in_links, characters)
    row[column + 2] = headings


@njit(cache=True, nogil=True)
def _put_page(row, sums, dense, stretch, total_words, num_blocks):
    """The same for all blocks: how much text the page has, and how much of it lies together."""
    row[_PAGE] = np.log1p(total_words)
    row[_PAGE + 1] = share(sums[0, SUM_LINK_CHARACTERS], sums[0, SUM_CHARACTERS])
    row[_PAGE + 2] = num_blocks
    row[_PAGE + 3] = sums[0, SUM_LONG]
    row[_PAGE + 4] = sums[dense, SUM_WORDS] / total_words
    row[_PAGE + 5] = share(sums[dense, SUM_LINK_CHARACTERS], sums[dense, SUM_CHARACTERS])
    row[_PAGE + 6] = (stretch[1] - stretch[0] + 1) / num_blocks
    row[_PAGE + 7] = total_words / num_blocks
    row[_PAGE + 8] = sums[0, SUM_SIGNS] / total_words


@njit(cache=True, nogil=True)
def _put_alike(features, tag, parent, last, signature, element, inner, statistics, sums, groups):
    """Columns of the neighbours of each block and of what is like it on the page."""
    total_words = max(sums[0, SUM_WORDS], np.float32(1))
    near, far = templates(parent, signature, element, inner)
    near_counts, near_group = grouped(near)
    far_counts, far_group = grouped(far)
    text_counts, _ = grouped(text_keys(statistics))
    sibling_counts, _ = grouped(sibling_keys(parent, signature))
    near_sums, far_sums = _sums_of_groups(near_group, statistics), _sums_of_groups(far_group, statistics)
    for block in range(len(element)):
        row = features[block]
        _put_neighbours(row, block, near, tag, parent, last, element, statistics, groups)
        of, count = near_sums[near_group[block]], near_counts[block]
        row[_REPETITION] = count
        row[_REPETITION + 1] = of[0] / count
        row[_REPETITION + 2] = of[1] / count
        row[_REPETITION + 3] = of[2] / count
        row[_REPETITION + 4] = of[0] / total_words
        of, count = far_sums[far_group[block]], far_counts[block]
        row[_REPETITION + 5] = count
        row[_REPETITION + 6] = of[0] / count
        row[_REPETITION + 7] = of[1] / count
        row[_REPETITION + 8] = of[0] / total_words
        row[_REPETITION + 9] = text_counts[block]
        _put_siblings(row, element[block], parent, sibling_counts, sums)


@njit(cache=True, nogil=True)
def _sums_of_groups(group, statistics):
    """Words, shares of links and ends of sentences of the blocks of each group: (groups, 3)."""
    sums = np.zeros((len(group), 3), np.float32)
    for block in range(len(group)):
        s = statistics[block]
        sums[group[block], 0] += s[WORDS]
        sums[group[block], 1] += share(s[LINK_CHARACTERS], s[CHARACTERS])
        sums[group[block], 2] += s[ENDS_TERMINAL]
    return sums


@njit(cache=True, nogil=True)
def _put_neighbours(row, block, near, tag, parent, last, element, statistics, groups):
    """Text, kind and distance in the tree of the blocks before and after one."""
    for i in range(len(_OFFSETS)):
        other, column = block + _OFFSETS[i], _NEIGHBOURS + _NUM_OF_NEIGHBOUR * i
        if other < 0 or other >= len(element):
            row[column] = -1
            continue
        s = statistics[other]
        row[column] = np.log1p(s[WORDS])
        row[column + 1] = share(s[LINK_CHARACTERS], s[CHARACTERS])
        row[column + 2] = s[ENDS_TERMINAL]
        row[column + 3] = groups[tag[element[other]]]
        row[column + 4] = near[other] == near[block]
        _, row[column + 5] = _common(element[block], element[other], parent, last)
        row[column + 6] = s[TERMINALS] + s[COMMAS]


@njit(cache=True, nogil=True)
def _put_siblings(row, number, parent, sibling_counts, sums):
    """The nearest element with at least two like it beside it."""
    level, column = 0, _REPETITION + 10
    while number > 0 and sibling_counts[number] < 3:
        number = parent[number]
        level += 1
    if number > 0:
        row[column] = sibling_counts[number]
        row[column + 1] = level
        row[column + 2] = sums[number, SUM_WORDS]
        row[column + 3] = share(sums[number, SUM_LINK_CHARACTERS], sums[number, SUM_CHARACTERS])
    else:
        row[column + 1] = _FAR
