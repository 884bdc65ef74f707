"""Blocks of a page → their text, and the text of the kept ones joined as the page shows them."""

import html

import numpy as np
from numpy.typing import NDArray

from modelmill.tasks.ingest.main_text.blocks import Blocks
from modelmill.tasks.ingest.main_text.parse import Markup
from modelmill.tasks.ingest.main_text.states import IN_PRE, SKIPPED
from modelmill.tasks.ingest.main_text.vocabulary import TAG

_CELLS = {TAG["td"], TAG["th"]}
# Between two of these stands one line end: they belong together as lines of a list, a table or a definition.
_LINES = {TAG[name] for name in ("li", "td", "th", "tr", "dt", "dd", "option", "label", "figcaption", "caption")}


def block_text(page: Markup, blocks: Blocks, block: int) -> str:
    """Text of one block: white space collapsed but for preformatted text, character references resolved."""
    runs = slice(int(blocks.first[block]), int(blocks.last[block]))
    # Lists, since reading a number out of an array costs as much as a short text.
    states = blocks.state[page.run_element[runs]].tolist()
    stretches = zip(page.run_start[runs].tolist(), page.run_end[runs].tolist(), states, strict=True)
    parts = [page.content[start:end].tobytes() for start, end, state in stretches if not state & SKIPPED]
    text = b"".join(parts).decode("utf-8", "replace")
    text = html.unescape(text) if "&" in text else text
    # Outside preformatted text any white space is one space, also what a reference such as &nbsp; stands for.
    return text.strip("\r\n") if any(state & IN_PRE for state in states) else " ".join(text.split())


def joined_text(page: Markup, blocks: Blocks, selected: NDArray[np.bool_]) -> str:
    """Text of the selected blocks: cells of a row on one line, lines of a list below each other, else an empty line."""
    parts: list[str] = []
    previous = -1
    for block in np.flatnonzero(selected):
        text = block_text(page, blocks, block)
        if not text:
            continue
        if previous >= 0:
            parts.append(_separator(page, blocks, previous, block))
        parts.append(text)
        previous = block
    return "".join(parts)


def _separator(page: Markup, blocks: Blocks, previous: int, block: int) -> str:
    before, after = int(blocks.element[previous]), int(blocks.element[block])
    if before == after:
        return "\n"  # a line break, or text after something nested
    tags = int(page.tag[before]), int(page.tag[after])
    if tags[0] in _CELLS and tags[1] in _CELLS and page.parent[before] == page.parent[after]:
        return "\t"
    return "\n" if tags[0] in _LINES and tags[1] in _LINES else "\n\n"


def page_title(page: Markup) -> str:
    """What the page's first title element says."""
    runs = np.flatnonzero(page.tag[page.run_element] == TAG["title"])
    if not len(runs):
        return ""
    text = page.content[page.run_start[runs[0]] : page.run_end[runs[0]]].tobytes().decode("utf-8", "replace")
    return " ".join(html.unescape(text).split())
