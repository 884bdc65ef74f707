"""Exact matches: what a plain comparison of normalised lines finds, whatever case, punctuation and empty lines."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelmill.tasks.curate.exact import MIN_WORDS, exact_index, exact_matches
from modelmill.tasks.suites.reader import load_suite

ITEMS = [
    {"id": "short", "question": "Who bakes bread?", "answer": "miller"},
    {"id": "lines", "question": "The sack is torn.\n\nWho mends it?", "answer": "the tailor"},
    {"id": "generic-1", "question": "Which of these is right?", "answer": "the red one"},
    {"id": "generic-2", "question": "Which of these is right?", "answer": "the blue one"},
    {"id": "tiny", "question": "Why?", "answer": "so"},
    {"id": "chinese", "question": "磨坊在哪里？", "answer": "河边"},
]
TEXTS = {
    "It began so.\nWHO bakes bread\nNobody knew.": ["short"],
    "Who bakes bread? The miller": [],  # neither the question nor it and its answer
    "Who bakes bread? Miller": ["short"],
    "One.\nThe sack is torn\n---\nWho mends it?\nTwo.": ["lines"],
    "The sack is torn. Who mends\nit? The tailor!": ["lines"],  # the whole text, broken otherwise
    "Which of these is right?": [],
    "Which of these is right?\nThe blue one.\nMore of it.": ["generic-2"],
    "Why?\nso": [],
    "前言\n磨坊在哪里\n后记": ["chinese"],
    "": [],
}


def write(folder: Path, items: list[dict[str, str]]) -> Path:
    path = folder / "small.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return path


def found(path: Path, texts: list[str], batch_rows: int = 4) -> list[list[str]]:
    suite = load_suite(path)
    rows, items = exact_matches(pa.chunked_array([pa.array(texts)]), exact_index(suite), batch_rows)
    return [[suite.items[item].id for item in items[rows == number]] for number in range(len(texts))]


def test_lines_runs_of_lines_and_whole_texts(tmp_path: Path) -> None:
    path = write(tmp_path, ITEMS)
    assert found(path, list(TEXTS)) == list(TEXTS.values())
    assert exact_index(load_suite(path)).possible.tolist() == [True, True, True, True, False, True]


def joined(lines: list[list[str]]) -> list[str]:
    return [word for line in lines for word in line]


def plain(text: str) -> list[list[str]]:
    lines = [re.findall(r"[a-z]+", line) for line in text.split("\n")]
    return [line for line in lines if line]


TEXT = st.lists(st.lists(st.sampled_from(["a", "b", "."]), max_size=3).map(" ".join), max_size=4).map("\n".join)


@settings(deadline=None, max_examples=150)
@given(question=TEXT.filter(lambda text: bool(text.strip())), texts=st.lists(TEXT, min_size=1, max_size=3))
def test_what_a_plain_comparison_finds(
    tmp_path_factory: pytest.TempPathFactory, question: str, texts: list[str]
) -> None:
    path = write(tmp_path_factory.mktemp("suite"), [{"id": "it", "question": question}])
    words, size = joined(plain(question)), len(plain(question))
    for text, items in zip(texts, found(path, texts, 2), strict=True):
        lines = plain(text)
        runs = [joined(lines[start : start + size]) for start in range(len(lines) - size + 1)]
        assert bool(items) == (len(words) >= MIN_WORDS and words in [*runs, joined(lines)])


def test_the_shipped_suite_is_found_in_itself() -> None:
    suite = load_suite("python-library")
    texts = pa.chunked_array([pa.array([f"Before.\n{item.text}\nAfter." for item in suite.items])])
    rows, _ = exact_matches(texts, exact_index(suite))
    assert set(rows) == set(np.flatnonzero(exact_index(suite).possible))
