"""Blocks of a page → their text, and the text of the kept ones joined as the page shows them."""

import html

import numpy as np
from numba import njit
from numpy.typing import NDArray

from modelmill.tasks.ingest.main_text.blocks import Blocks
from modelmill.tasks.ingest.main_text.parse import Markup
from modelmill.tasks.ingest.main_text.states import IN_PRE, SKIPPED
from modelmill.tasks.ingest.main_text.vocabulary import TAG, tag_flags

_IMG, _BR, _TITLE = TAG["img"], TAG["br"], TAG["title"]
_IS_CELL = tag_flags(("td", "th"))
# Between two of these stands one line end: they belong together as lines of a list, a table or a definition.
_IS_LINE = tag_flags(("li", "td", "th", "tr", "dt", "dd", "option", "label", "figcaption", "caption"))
_SEPARATORS = ("\n\n", "\n", "\t")
_PARAGRAPH, _LINE, _CELL = range(3)


def block_texts(page: Markup, blocks: Blocks, numbers: NDArray[np.integer]) -> list[str]:
    """Text of some blocks: white space collapsed but for preformatted text, character references resolved.

    A picture within the text stands there as its alt text: formulas are often drawn (Llama 3, section 3.1.1).
    """
    first, last = blocks.first[numbers], blocks.last[numbers]
    # A run and a picture need at least as many bytes of the page as of the text.
    size = int((page.run_end[last - 1] - page.run_start[first]).sum()) if len(numbers) else 0
    buffer, ends, preformatted = (
        np.empty(size, np.uint8),
        np.zeros(len(numbers), np.int64),
        np.zeros(len(numbers), bool),
    )
    _gather(
        page.content, page.tag, page.names, blocks.state, page.run_start, page.run_end, page.run_element,
        page.run_before, first, last, buffer, ends, preformatted,
    )  # fmt: skip
    gathered = buffer[: ends[-1] if len(ends) else 0].tobytes()
    texts, start = [], 0
    for end, is_preformatted in zip(ends.tolist(), preformatted.tolist(), strict=True):
        text = gathered[start:end].decode("utf-8", "replace")
        # White space beyond ASCII is not printable; all other text is as it should be by now.
        if is_preformatted or "&" in text or not text.isprintable():
            text = _resolved(text, is_preformatted)
        texts.append(text)
        start = end
    return texts


def _resolved(text: str, is_preformatted: bool) -> str:
    """Resolve character references and collapse what white space is left."""
    text = html.unescape(text) if "&" in text else text
    if is_preformatted:
        return text.strip("\r\n")
    # Elsewhere any white space is one space, also what a reference such as &nbsp; stands for; but several of those in
    # front indent a line of code.
    text = text.strip(" \t\r\n\f")
    indented = len(text) - len(text.lstrip("\u00a0")) if text.startswith("\u00a0\u00a0") else 0
    return " " * indented + " ".join(text.split())


def joined_text(page: Markup, blocks: Blocks, selected: NDArray[np.bool_]) -> str:
    """Text of the selected blocks: cells of a row on one line, lines of a list below each other, else an empty line."""
    numbers = np.flatnonzero(selected)
    texts = block_texts(page, blocks, numbers)
    shown = numbers[[bool(text) for text in texts]] if len(numbers) else numbers
    kinds = _separators(
        shown, page.tag, page.parent, page.run_before, blocks.element, blocks.first, blocks.last
    ).tolist()
    parts: list[str] = []
    for text, kind in zip(filter(None, texts), kinds, strict=True):
        parts += [_SEPARATORS[kind], text]
    return "".join(parts[1:])


def page_title(page: Markup) -> str:
    """What the page's first title element says."""
    run = _first_title(page.tag, page.run_element)
    if run < 0:
        return ""
    text = page.content[page.run_start[run] : page.run_end[run]].tobytes().decode("utf-8", "replace")
    return " ".join(html.unescape(text).split())


@njit(cache=True, nogil=True)
def _first_title(tag, run_element):
    for run in range(len(run_element)):
        if tag[run_element[run]] == _TITLE:
            return run
    return -1


@njit(cache=True, nogil=True)
def _gather(
    content, tag, names, state, run_start, run_end, run_element, run_before, first, last, buffer, ends, preformatted
):
    """Put the bytes of each block one after the other, ASCII white space collapsed; ends: of each in the buffer."""
    size = 0
    for block in range(len(first)):
        shown = 0
        for run in range(first[block], last[block]):
            flags = state[run_element[run]]
            preformatted[block] |= flags & IN_PRE != 0
            shown += not flags & SKIPPED
        begin, element = size, run_before[first[block]]
        for run in range(first[block], last[block]):
            if state[run_element[run]] & SKIPPED:
                continue
            while shown > 1 and element < run_before[last[block] - 1] and names[element, 4] < run_start[run]:
                if tag[element] == _IMG:
                    size = _put(content, names[element, 4], names[element, 5], buffer, begin, size, preformatted[block])
                element += 1
            size = _put(content, run_start[run], run_end[run], buffer, begin, size, preformatted[block])
        if size > begin and not preformatted[block] and buffer[size - 1] == 32:
            size -= 1
        ends[block] = size


@njit(cache=True, nogil=True)
def _put(content, start, stop, buffer, begin, size, preformatted):
    """Append a stretch of the page to the text that begins at `begin` → new size of the buffer."""
    for position in range(start, stop):
        byte = content[position]
        if not preformatted and (byte == 32 or 9 <= byte <= 13):
            if size == begin or buffer[size - 1] == 32:
                continue
            byte = np.uint8(32)
        buffer[size] = byte
        size += 1
    return size


@njit(cache=True, nogil=True)
def _separators(numbers, tag, parent, run_before, element, first, last):
    """What stands before each of these blocks, as a position in _SEPARATORS."""
    kinds = np.zeros(len(numbers), np.uint8)
    for i in range(1, len(numbers)):
        previous, block = numbers[i - 1], numbers[i]
        before, after = element[previous], element[block]
        if before == after:  # line breaks, or text after something nested
            num_breaks = 0
            for between in range(run_before[last[previous] - 1], run_before[first[block]]):
                num_breaks += tag[between] == _BR
            kinds[i] = _PARAGRAPH if num_breaks > 1 else _LINE
        elif _IS_CELL[tag[before]] and _IS_CELL[tag[after]] and parent[before] == parent[after]:
            kinds[i] = _CELL
        elif _IS_LINE[tag[before]] and _IS_LINE[tag[after]]:
            kinds[i] = _LINE
    return kinds
