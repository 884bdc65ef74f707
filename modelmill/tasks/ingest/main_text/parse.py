"""HTML as bytes → its elements and runs of text as flat arrays, by one pass of a compiled tokeniser.

Follows the HTML standard's tokeniser, and of its tree construction what shapes text: void elements, raw text, implied
ends (p, li, dt, td, tr, ...), end tags that close what is open inside them. It does not move misplaced content out of
tables nor rebuild formatting elements: neither changes the order of the text.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from modelmill.tasks.ingest.main_text.attributes import Words, read_attributes
from modelmill.tasks.ingest.main_text.reading import (
    EXCLAMATION,
    GREATER,
    HYPHEN,
    LESS,
    QUESTION_MARK,
    SLASH,
    after,
    end_of_raw_text,
    is_letter,
    looked_up,
    name_at,
)
from modelmill.tasks.ingest.main_text.tree import closed, implied_end, outside
from modelmill.tasks.ingest.main_text.vocabulary import ATTRIBUTES, TAG, TAGS, keyword_automaton, name_table, tag_flags

_VOID = (
    "area", "base", "br", "col", "embed", "frame", "hr", "img", "input", "link", "meta", "param", "source", "track",
    "wbr",
)  # fmt: skip
_HEAD_CONTENT = (
    "head", "title", "meta", "link", "base", "script", "style", "noscript", "template", "object", "img", "param",
    "iframe",
)  # fmt: skip
_IS_VOID, _IS_HEAD_CONTENT = tag_flags(_VOID), tag_flags(_HEAD_CONTENT)
_IS_RAW = tag_flags(("script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes"))
_BODY, _HEAD, _HTML, _OTHER = (TAG[name] for name in ("body", "head", "html", "other"))
_MAX_DEPTH = 512  # browsers stop nesting there too; what lies deeper stays a child of the deepest


@dataclass(frozen=True)
class Markup:
    """One page. Elements are numbered in the order of their start tags, so parents come before their children.

    content: the page's bytes. tag, parent, depth: of each element; element 0 stands for the document.
    last: number of the last element inside each element. keywords: bit g is set where group g of the vocabulary
    stands in class, id, role or itemprop. signature: hash of tag and classes. flags: HIDDEN, TEX, ... of attributes.py.
    names: (elements, 6), start and end of class, of id and of alt.
    run_start, run_end, run_element: the runs of text, in the order of the page; run_before: number of elements begun
    before each run.
    """

    content: NDArray[np.uint8]
    tag: NDArray[np.uint8]
    parent: NDArray[np.int32]
    depth: NDArray[np.int32]
    last: NDArray[np.int32]
    keywords: NDArray[np.uint64]
    signature: NDArray[np.uint64]
    flags: NDArray[np.uint8]
    names: NDArray[np.int32]
    run_start: NDArray[np.int32]
    run_end: NDArray[np.int32]
    run_element: NDArray[np.int32]
    run_before: NDArray[np.int32]


class _Elements(NamedTuple):
    """The arrays of elements in Markup, with room for all."""

    tag: NDArray[np.uint8]
    parent: NDArray[np.int32]
    depth: NDArray[np.int32]
    last: NDArray[np.int32]
    keywords: NDArray[np.uint64]
    signature: NDArray[np.uint64]
    flags: NDArray[np.uint8]
    names: NDArray[np.int32]


def parsed(html: bytes) -> Markup:
    """Parse one page of at most 2 GB."""
    content = np.frombuffer(html, np.uint8)
    count = html.count(b"<") + 2  # every element and every run but the first and the last follows a "<"
    # Made here, not in the kernel: every kind of allocation costs it time to compile.
    elements = _Elements(
        tag=np.zeros(count, np.uint8),
        parent=np.zeros(count, np.int32),
        depth=np.zeros(count, np.int32),
        last=np.zeros(count, np.int32),
        keywords=np.zeros(count, np.uint64),
        signature=np.zeros(count, np.uint64),
        flags=np.zeros(count, np.uint8),
        names=np.zeros((count, 6), np.int32),
    )
    runs = np.zeros((4, count), np.int32)
    stack, names = np.zeros(_MAX_DEPTH + 2, np.int32), np.zeros(_MAX_DEPTH + 2, np.uint64)
    num_elements, num_runs = _parse(content, _words(), elements, runs, stack, names)
    of_elements = {name: array[:num_elements] for name, array in elements._asdict().items()}
    start, stop, element, before = (row[:num_runs] for row in runs)
    return Markup(content, **of_elements, run_start=start, run_end=stop, run_element=element, run_before=before)


def _words() -> Words:
    return Words(*name_table(TAGS[1:], 1), *name_table(ATTRIBUTES, 1), *keyword_automaton())


@njit(cache=True, nogil=True)
def _parse(content, words, elements, runs, stack, names):
    """Fill the arrays of elements and runs → how many of each there are. stack, names: of the open elements."""
    end, tag, last = len(content), elements.tag, elements.last
    top, count, num_runs, position, text_start = 0, 1, 0, 0, 0
    in_head = False
    while True:
        position = _next_tag(content, position, end)
        num_runs = _put_run(runs, num_runs, text_start, position, stack[top], count)
        if position >= end:
            break
        following = content[position + 1]
        if following in (EXCLAMATION, QUESTION_MARK):
            position = text_start = _end_of_declaration(content, position, end)
            continue
        before = top
        if following == SLASH:
            name, position = name_at(content, position + 2, end)
            position = text_start = after(content, position, end, GREATER)
            number = looked_up(name, words.tag_hashes, words.tag_numbers)
            if number not in (_BODY, _HTML):
                top = closed(number, name, stack, names, top, tag)
            _end_elements(last, stack, top, before, count)
            continue
        name_start = position + 1
        name, name_end = name_at(content, name_start, end)
        number = looked_up(name, words.tag_hashes, words.tag_numbers)
        top = implied_end(number, stack, top, tag)
        if in_head and not _IS_HEAD_CONTENT[number]:
            # Anything else begins the body, also where its own tag and the end of the head are left out.
            in_head = False
            top = outside(_HEAD, stack, top, tag)
        in_head = in_head or number == _HEAD
        _end_elements(last, stack, top, before, count)
        _begin_element(elements, count, number, name, stack[top])
        position, self_closing = read_attributes(
            content, name_end, end, words, count, elements.keywords, elements.signature, elements.flags, elements.names
        )
        position = text_start = min(position + 1, end)
        if _IS_RAW[number]:
            position = end_of_raw_text(content, text_start, end, name_start, name_end)
            num_runs = _put_run(runs, num_runs, text_start, position, count, count + 1)
            position = text_start = min(after(content, position, end, GREATER), end)
        elif not (_IS_VOID[number] or (self_closing and number == _OTHER)) and top < _MAX_DEPTH:
            top += 1
            stack[top], names[top] = count, name
        count += 1
    _end_elements(last, stack, -1, top, count)
    # An inline element whose end tag came inside a block ends with that block.
    for element in range(count - 1, 0, -1):
        last[elements.parent[element]] = max(last[elements.parent[element]], last[element])
    return count, num_runs


@njit(cache=True, nogil=True)
def _next_tag(content, position, end):
    """Position of the next "<" that begins a tag, a comment or a declaration, or the end: others are text."""
    while position < end:
        if content[position] == LESS and position + 1 < end:
            following = content[position + 1]
            if is_letter(following) or following in (SLASH, EXCLAMATION, QUESTION_MARK):
                return position
        position += 1
    return end


@njit(cache=True, nogil=True)
def _end_of_declaration(content, position, end):
    """Where what follows a comment, a document type or a processing instruction begins."""
    is_comment = (
        position + 3 < end
        and content[position + 1] == EXCLAMATION
        and content[position + 2] == HYPHEN
        and content[position + 3] == HYPHEN
    )
    return _end_of_comment(content, position + 4, end) if is_comment else after(content, position + 2, end, GREATER)


@njit(cache=True, nogil=True)
def _end_of_comment(content, start, end):
    """Where what follows a comment begins, whose `<!--` ends at `start`: after `-->` or `--!>`, as HTML's standard has
    it; `<!-->` and `<!--->` are empty comments."""
    if start < end and content[start] == GREATER:
        return start + 1
    position = start
    while position < end:
        if content[position] == GREATER:
            # The hyphens of `<!--` count for `-->`, but not for `--!>`.
            dashes = position - 1
            if content[dashes] == EXCLAMATION and position >= start + 3:
                dashes -= 1
            if content[dashes] == HYPHEN and content[dashes - 1] == HYPHEN:
                break
        position += 1
    return position + 1


@njit(cache=True, nogil=True)
def _put_run(runs, num_runs, start, stop, element, begun):
    """Note a run of text unless it is empty → number of runs."""
    if stop > start:
        runs[0, num_runs], runs[1, num_runs], runs[2, num_runs], runs[3, num_runs] = start, stop, element, begun
        return num_runs + 1
    return num_runs


@njit(cache=True, nogil=True)
def _begin_element(elements, element, number, name, parent):
    elements.tag[element] = number
    elements.parent[element] = parent
    elements.depth[element] = elements.depth[parent] + 1
    elements.last[element] = element
    elements.signature[element] = name


@njit(cache=True, nogil=True)
def _end_elements(last, stack, top, before, count):
    """What leaves the stack, from `before` down to above `top`, ends with the last element begun."""
    for depth in range(top + 1, before + 1):
        last[stack[depth]] = count - 1
