"""Features of a page and its blocks → the page's type and a score of each block between 0 and 1, from shipped weights.

Two linear models read names in class attributes and words; boosted trees read their scores beside the features of
the page (its type) and of each block. data/main_text.md says how the weights were made.
"""

import functools
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modelmill.tasks.ingest.main_text.block_features import block_features
from modelmill.tasks.ingest.main_text.blocks import Blocks
from modelmill.tasks.ingest.main_text.lexicon import (
    chain_scores,
    headings_above,
    name_hashes,
    text_scores,
    word_hashes,
)
from modelmill.tasks.ingest.main_text.page_features import page_features
from modelmill.tasks.ingest.main_text.parse import Markup
from modelmill.tasks.ingest.main_text.states import IN_PRE
from modelmill.tasks.ingest.main_text.statistics import WORDS
from modelmill.tasks.ingest.main_text.trees import Trees

PAGE_TYPES = ("article", "collection", "documentation", "forum", "listing", "product", "service")
_LEAST = 0.05  # of the best block: to leave these pages empty (4 of 1,488) raised word F1 by 0.001
_MARGIN = 0.85  # of the best score to cut at: what is a little below is kept too, see likely_main


@dataclass(frozen=True)
class Model:
    """Weights of all parts. names, words, headings: one weight a hash."""

    names: NDArray[np.float32]
    words: NDArray[np.float32]
    headings: NDArray[np.float32]
    page: Trees
    block: Trees

    def type_probabilities(self, page: Markup, blocks: Blocks) -> NDArray[np.float32]:
        """Probability of each of PAGE_TYPES."""
        sums = self.page.sums(page_features(page, blocks)[None], len(PAGE_TYPES))[0]
        raised = np.exp(sums - sums.max())
        return raised / raised.sum()

    def scores(self, page: Markup, blocks: Blocks, types: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probability of each block to belong to the main text."""
        name_scores, word_scores = linear_scores(page, blocks, self.names, self.words, self.headings)
        sums = self.block.sums(block_rows(page, blocks, types, name_scores, word_scores))[:, 0]
        return (1 / (1 + np.exp(-sums))).astype(np.float32, copy=False)


def linear_scores(
    page: Markup,
    blocks: Blocks,
    names: NDArray[np.float32],
    words: NDArray[np.float32],
    headings: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What the linear models of names and of words say of each block."""
    of_names = chain_scores(page.parent, *name_hashes(page), names, blocks.inner)
    of_words = text_scores(*word_hashes(page, blocks), headings_above(page, blocks), words, headings)
    return of_names, of_words


def block_rows(
    page: Markup,
    blocks: Blocks,
    types: NDArray[np.float32],
    name_scores: NDArray[np.float32],
    word_scores: NDArray[np.float32],
) -> NDArray[np.float32]:
    """What the trees see of each block."""
    features = block_features(page, blocks)
    of_page = np.broadcast_to(types.astype(np.float32), (len(blocks), len(types)))
    return np.hstack([features, of_page, name_scores[:, None], word_scores[:, None]])


def main_blocks(blocks: Blocks, scores: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The blocks to keep: those likely to be main text, and all preformatted ones between them.

    The labels leave out most code, so that its blocks score low; without it an explanation of code is of little use.
    A page none of whose blocks is likely (a list of files, a frame without its content) has no main text.
    """
    if not len(scores) or scores.max() < _LEAST:
        return np.zeros(len(scores), bool)
    selected = likely_main(scores, blocks.statistics[:, WORDS])
    if selected.any():
        first, last = np.flatnonzero(selected)[[0, -1]]
        selected[first : last + 1] |= (blocks.state[blocks.inner[first : last + 1]] & IN_PRE) != 0
    return selected


def likely_main(scores: NDArray[np.float32], num_words: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The blocks whose selection has the highest expected word F1, if the scores are probabilities.

    For a set S that is 2 · sum(score · words in S) / (words in S + sum(score · words)), highest for the blocks above
    some score; no fixed threshold does as well on pages of menus and on pages of prose. Blocks a little below that
    score are taken too: word F1 stays, and more of what must be kept is (data/main_text.md).
    """
    order = np.argsort(-scores, kind="stable")
    expected = scores[order] * num_words[order]
    worth = np.cumsum(expected) / np.maximum(np.cumsum(num_words[order]) + expected.sum(), 1e-9)
    if not len(scores):
        return np.zeros(0, bool)
    return scores >= _MARGIN * scores[order[int(np.argmax(worth))]]


@functools.cache
def shipped_model() -> Model:
    """The weights that come with the package."""
    with resources.as_file(resources.files("modelmill.tasks.ingest.main_text").joinpath("data/main_text.npz")) as path:
        return read_model(path)


def read_model(path: Path) -> Model:
    """Read what `write_model` wrote."""
    with np.load(path) as arrays:
        names, words, headings = (arrays[name].astype(np.float32) for name in ("names", "words", "headings"))
        page, block = (
            Trees(**{name: arrays[f"{part}_{name}"] for name in Trees.__dataclass_fields__})
            for part in ("page", "block")
        )
    return Model(names, words, headings, page, block)


def write_model(model: Model, path: Path) -> None:
    """Write the weights; those of the tables as half-precision numbers."""
    tables = {name: getattr(model, name).astype(np.float16) for name in ("names", "words", "headings")}
    trees = {
        f"{part}_{name}": getattr(getattr(model, part), name)
        for part in ("page", "block")
        for name in Trees.__dataclass_fields__
    }
    np.savez_compressed(path, **tables, **trees)
