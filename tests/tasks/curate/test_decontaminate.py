"""Decontamination: coverage is what a plain count of covered words says, and borders between texts are kept."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelmill.tasks.curate.decontaminate import (
    NGRAM,
    SuiteIndex,
    contaminated_items,
    contaminated_rows,
    found_grams,
    item_coverage,
    suite_index,
)
from modelmill.tasks.suites.reader import load_suite
from tests.tasks.curate.small_unique import LEAKED, write_suite


def index_of(path: Path, ratio: float = 0.6) -> SuiteIndex:
    return suite_index(str(path), ratio)


def column(*texts: str) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(texts, pa.string())])


def test_only_the_leaked_item_is_found(tmp_path: Path) -> None:
    index = index_of(write_suite(tmp_path))
    assert index.checkable.tolist() == [True, True, False]
    texts = column("nothing here", f"Quoted: {LEAKED.upper()} The wheel, the sack.", "who bakes? miller", LEAKED[:40])
    assert contaminated_rows(texts, index).tolist() == [1]
    assert contaminated_items(found_grams(texts, index)[1], index) == ["leaked"]


def test_pieces_of_an_item_count_together_over_a_corpus(tmp_path: Path) -> None:
    index = index_of(write_suite(tmp_path))
    words = LEAKED.split()
    texts = column(" ".join(words[:9]), " ".join(words[9:]))
    assert contaminated_rows(texts, index).tolist() == []
    assert contaminated_items(found_grams(texts, index)[1], index) == ["leaked"]


def test_an_ngram_across_two_documents_is_none(tmp_path: Path) -> None:
    index = index_of(write_suite(tmp_path), ratio=0.1)
    words = LEAKED.split()
    assert (
        contaminated_rows(column(*[" ".join(words[start : start + 7]) for start in range(0, 18, 7)]), index).size == 0
    )


def plain_coverage(item: list[str], document: list[str]) -> float:
    grams = {tuple(document[start : start + NGRAM]) for start in range(len(document) - NGRAM + 1)}
    covered = set()
    for start in range(len(item) - NGRAM + 1):
        if tuple(item[start : start + NGRAM]) in grams:
            covered |= set(range(start, start + NGRAM))
    return len(covered) / len(item)


LETTERS = st.lists(st.sampled_from("ab"), min_size=NGRAM, max_size=30)


@settings(deadline=None, max_examples=150)
@given(items=st.lists(LETTERS, min_size=1, max_size=3), texts=st.lists(LETTERS, min_size=1, max_size=3))
def test_coverage_is_a_plain_count(
    tmp_path_factory: pytest.TempPathFactory, items: list[list[str]], texts: list[list[str]]
) -> None:
    path = tmp_path_factory.mktemp("suite") / "suite.jsonl"
    path.write_text("".join(json.dumps({"text": " ".join(item)}) + "\n" for item in items))
    index = index_of(path)
    rows, grams = found_grams(column(*[" ".join(text) for text in texts]), index, batch_rows=2)
    found = np.zeros((len(texts), len(items)))
    for row, item, share in zip(*item_coverage(rows, grams, index), strict=True):
        found[row, item] = share
    expected = [[plain_coverage(item, text) for item in items] for text in texts]
    np.testing.assert_allclose(found, expected)


def test_every_item_of_the_shipped_suite_is_found_in_itself() -> None:
    index = suite_index("python-library", 1.0)
    items = load_suite("python-library").items
    texts = column(*[item.text for item in items])
    assert set(contaminated_rows(texts, index)) == set(np.flatnonzero(index.checkable))
