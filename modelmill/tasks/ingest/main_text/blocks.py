"""Elements and runs of text → blocks (a paragraph, heading, cell, line of code ...) and what their text looks like."""

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from modelmill.tasks.ingest.main_text.parse import Markup
from modelmill.tasks.ingest.main_text.states import IN_PRE, SKIPPED, inherited_states
from modelmill.tasks.ingest.main_text.statistics import NUM_STATISTICS, describe
from modelmill.tasks.ingest.main_text.vocabulary import TAG, tag_flags
from modelmill.tasks.text.characters import classes

_INLINE_TAGS = (
    "span", "a", "b", "strong", "i", "em", "u", "small", "sub", "sup", "mark", "code", "kbd", "samp", "tt", "var", "q",
    "cite", "font", "abbr", "del", "ins", "s", "strike", "big", "time", "other", "wbr", "img", "math", "annotation",
    "semantics", "link", "meta", "script", "style", "template", "svg", "picture", "source", "label", "input",
    "map", "area", "param", "track",
)  # fmt: skip
_IS_INLINE = tag_flags(_INLINE_TAGS)
_BR = TAG["br"]
# What parts two runs of text: a line break, or the beginning or end of an element that is no inline one.
_NONE, _SOFT, _HARD = 0, 1, 2


@dataclass(frozen=True)
class Blocks:
    """The blocks of a page, in order.

    first, last: runs of each block, `[first, last)`. element: the innermost element that is no inline one. inner: the
    element of its first run. soft: whether only a line break parts it from the block before. statistics: (blocks,
    NUM_STATISTICS) float32, columns of statistics.py. state: flags of states.py of every element of the page.
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
    state = np.zeros(len(page.tag), np.uint8)
    inherited_states(page.tag, page.parent, page.flags, state)
    found, soft = np.zeros((4, len(page.run_start)), np.int32), np.zeros(len(page.run_start), np.bool_)
    count = _cut(
        page.content, page.tag, page.parent, page.last, state,
        page.run_start, page.run_end, page.run_element, page.run_before, found, soft,
    )  # fmt: skip
    first, last, element, inner = (row[:count].copy() for row in found)
    statistics = np.zeros((count, NUM_STATISTICS), np.float32)
    _describe_all(
        page.content, state, page.run_start, page.run_end, page.run_element, first, last, classes(), statistics
    )
    return Blocks(first, last, element, inner, soft[:count].copy(), statistics, state)


@njit(cache=True, nogil=True)
def _is_blank(content, start, end):
    for i in range(start, end):
        byte = content[i]
        if not (byte == 32 or 9 <= byte <= 13):
            return False
    return True


@njit(cache=True, nogil=True)
def _boundary(previous, run, tag, parent, last, state, run_element, run_before):
    """_NONE where runs stand in one block, _SOFT where a line break parts them, _HARD where a block ends or begins."""
    result = _NONE
    for element in range(run_before[previous], run_before[run]):
        number = tag[element]
        if number == _BR:
            result = max(result, _SOFT)
        elif not _IS_INLINE[number] and not state[element] & SKIPPED:
            return _HARD
    ancestor = run_element[previous]
    while ancestor > 0 and last[ancestor] < run_before[run] and not _holds(ancestor, run_element[run], last):
        if not _IS_INLINE[tag[ancestor]]:
            return _HARD
        ancestor = parent[ancestor]
    return result


@njit(cache=True, nogil=True)
def _holds(ancestor, element, last):
    return ancestor <= element <= last[ancestor]


@njit(cache=True, nogil=True)
def _cut(content, tag, parent, last, state, run_start, run_end, run_element, run_before, blocks, soft):
    """Fill first and last run, element and inner element of each block, the rows of `blocks` → number of blocks."""
    count, previous = 0, -1
    for run in range(len(run_start)):
        if state[run_element[run]] & SKIPPED or _is_blank(content, run_start[run], run_end[run]):
            continue
        kind = _HARD
        if previous >= 0:
            kind = _boundary(previous, run, tag, parent, last, state, run_element, run_before)
            if kind == _SOFT and state[run_element[run]] & IN_PRE:
                kind = _NONE
        if kind:
            blocks[0, count], soft[count] = run, kind == _SOFT
            count += 1
        blocks[1, count - 1] = run + 1
        previous = run
    for block in range(count):
        inner = run_element[blocks[0, block]]
        # What all runs of the block lie in, and of that the innermost element that is no inline one.
        outer, last_run = inner, blocks[1, block] - 1
        while outer > 0 and (_IS_INLINE[tag[outer]] or not _holds(outer, run_element[last_run], last)):
            outer = parent[outer]
        blocks[2, block], blocks[3, block] = outer, inner
    return count


@njit(cache=True, nogil=True)
def _describe_all(content, state, run_start, run_end, run_element, first, last, classes, statistics):
    counts = np.zeros(NUM_STATISTICS, np.int64)
    for block in range(len(first)):
        counts[:] = 0
        describe(content, state, run_start, run_end, run_element, first[block], last[block], classes, counts)
        statistics[block] = counts
