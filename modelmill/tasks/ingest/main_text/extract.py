"""HTML of a page → its title, main text and type."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelmill.tasks.ingest.main_text.blocks import Blocks, found_blocks
from modelmill.tasks.ingest.main_text.joined import block_texts, joined_text, page_title
from modelmill.tasks.ingest.main_text.model import PAGE_TYPES, Model, main_blocks
from modelmill.tasks.ingest.main_text.parse import Markup, parsed

_LONG = 40  # characters from which a block is looked for anywhere in another text, not only as a line of it


@dataclass(frozen=True)
class MainText:
    """Title and text may be empty; page_type is one of PAGE_TYPES."""

    title: str
    text: str
    page_type: str


def main_text(html: bytes, model: Model, others: Sequence[str] = ()) -> MainText:
    """The main text of a page in UTF-8.

    others: texts of the same page by other extractors; blocks that stand in one of them are kept too.
    """
    page = parsed(html)
    blocks = found_blocks(page)
    types = model.type_probabilities(page, blocks)
    selected = main_blocks(blocks, model.scores(page, blocks, types))
    for text in others:
        selected |= _standing_in(page, blocks, text)
    return MainText(page_title(page), joined_text(page, blocks, selected), PAGE_TYPES[int(types.argmax())])


def _standing_in(page: Markup, blocks: Blocks, text: str) -> NDArray[np.bool_]:
    """Which blocks are a line of a text or, if they are long, a part of it; white space does not count."""
    lines = {" ".join(line.split()) for line in text.splitlines()}
    whole = " ".join(text.split())
    found = np.zeros(len(blocks), bool)
    for block, own in enumerate(block_texts(page, blocks, np.arange(len(blocks)))):
        own = " ".join(own.split())
        found[block] = own in lines or (len(own) >= _LONG and own in whole)
    return found
