"""Blocks of a page → their text, and the text of the kept ones joined as the page shows them."""

import html

import numpy as np
from numpy.typing import NDArray

from modelmill.tasks.ingest.main_text.blocks import Blocks
from modelmill.tasks.ingest.main_text.parse import Markup
from modelmill.tasks.ingest.main_text.states import IN_PRE, SKIPPED
from modelmill.tasks.ingest.main_text.vocabulary import TAG

_IMG = TAG["img"]
_CELLS = {TAG["td"], TAG["th"]}
# Between two of these stands one line end: they belong together as lines of a list, a table or a definition.
_LINES = {TAG[name] for name in ("li", "td", "th", "tr", "dt", "dd", "option", "label", "figcaption", "caption")}


def block_text(page: Markup, blocks: Blocks, block: int) -> str:
    """Text of one block: white space collapsed but for preformatted text, character references resolved.

    A picture within the text stands there as its alt text: formulas are often drawn (Llama 3, section 3.1.1).
    """
    first, last = int(blocks.first[block]), int(blocks.last[block])
    # Lists, since reading a number out of an array costs as much as a short text.
    states = blocks.state[page.run_element[first:last]].tolist()
    stretches = list(zip(page.run_start[first:last].tolist(), page.run_end[first:last].tolist(), strict=True))
    parts = [
        page.content[start:end].tobytes()
        for (start, end), state in zip(stretches, states, strict=True)
        if not state & SKIPPED
    ]
    if len(parts) > 1 and (pictures := _pictures(page, first, last)):
        places = sorted([*(stretches[i] for i in range(len(states)) if not states[i] & SKIPPED), *pictures])
        parts = [page.content[start:end].tobytes() for start, end in places]
    text = b"".join(parts).decode("utf-8", "replace")
    text = html.unescape(text) if "&" in text else text
    if any(state & IN_PRE for state in states):
        return text.strip("\r\n")
    # Elsewhere any white space is one space, also what a reference such as &nbsp; stands for; but several of those in
    # front indent a line of code.
    text = text.strip(" \t\r\n\f")
    indented = len(text) - len(text.lstrip("\u00a0")) if text.startswith("\u00a0\u00a0") else 0
    return " " * indented + " ".join(text.split())


def _pictures(page: Markup, first: int, last: int) -> list[tuple[int, int]]:
    """Start and end of the alt texts of the pictures between the first and the last of some runs."""
    begun = slice(page.run_before[first], page.run_before[last - 1])
    found = np.flatnonzero(page.tag[begun] == _IMG) + begun.start
    return [(int(start), int(end)) for start, end in page.names[found, 4:6] if end > start]


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
    if before == after:  # line breaks, or text after something nested
        begun = page.run_before[[blocks.last[previous] - 1, blocks.first[block]]]
        num_breaks = np.count_nonzero(page.tag[begun[0] : begun[1]] == TAG["br"])
        return "\n\n" if num_breaks > 1 else "\n"
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
