"""The compiled counts against a plain reading of the published definitions, and each rule at its threshold."""

import re
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelmill.tasks.clean.config import GopherRepetition
from modelmill.tasks.clean.repetition import (
    _duplicate_ngram_characters,
    _duplicate_parts,
    _top_ngram_characters,
    repetition_verdict,
)
from modelmill.tasks.clean.traits import traits
from modelmill.tasks.text.characters import classes
from modelmill.tasks.text.flat import characters
from modelmill.tasks.text.words import words

NOTHING = {
    "max_duplicate_paragraphs": None,
    "max_duplicate_paragraph_characters": None,
    "max_duplicate_lines": None,
    "max_duplicate_line_characters": None,
    "max_top_ngram_characters": {},
    "max_duplicate_ngram_characters": {},
}


def duplicates(parts: list[str]) -> tuple[int, int, int]:
    seen: set[str] = set()
    again = [part for part in parts if part in seen or seen.add(part)]
    return len(parts), len(again), sum(map(len, again))


def duplicate_ngram_characters(cut: list[str], size: int) -> int:
    seen, covered, i = set(), 0, 0
    while i < len(cut) - size + 1:
        ngram = "".join(cut[i : i + size])
        if ngram in seen:
            covered += len(ngram)
            i += size
        else:
            seen.add(ngram)
            i += 1
    return covered


def top_ngram_characters(cut: list[str], size: int) -> int:
    ngrams = [" ".join(cut[i : i + size]) for i in range(len(cut) - size + 1)]
    if not ngrams:
        return 0
    best, count = Counter(ngrams).most_common(1)[0]
    return len(best) * count


repetitive = st.text(alphabet="ab \n.", max_size=80)


@settings(max_examples=150, deadline=None)
@given(st.lists(repetitive, min_size=1, max_size=3))
def test_counts_are_those_of_the_definitions(found: list[str]) -> None:
    texts = characters(pa.array(found))
    cut = words(texts)
    judged = np.ones(len(found), bool)
    parts = _duplicate_parts(texts.codes, texts.offsets, classes())
    for row, text in enumerate(found):
        assert tuple(parts[0, :, row]) == duplicates(re.split(r"\n{2,}", text.strip()))
        assert tuple(parts[1, :, row]) == duplicates(re.split(r"\n+", text))
        start = texts.offsets[row]
        bounds = range(cut.offsets[row], cut.offsets[row + 1])
        tokens = [text[cut.starts[i] - start : cut.ends[i] - start] for i in bounds]
        for size in (2, 3):
            top = _top_ngram_characters(cut.starts, cut.ends, cut.hashes, cut.offsets, size, judged)
            assert top[row] == top_ngram_characters(tokens, size)
        again = _duplicate_ngram_characters(texts.codes, cut.starts, cut.ends, cut.offsets, np.array([2, 3]), judged)
        assert again[:, row].tolist() == [duplicate_ngram_characters(tokens, size) for size in (2, 3)]


@pytest.mark.parametrize(
    ("rule", "text", "share"),
    [
        ("duplicate_paragraphs", "one\n\ntwo\n\none\n\nsix", 1 / 4),
        ("duplicate_paragraph_characters", "one\n\ntwo\n\none", 3 / 13),
        ("duplicate_lines", "one\ntwo\none\nsix\nten", 1 / 5),
        ("duplicate_line_characters", "one\ntwo\none", 3 / 11),
    ],
)
def test_a_share_at_the_threshold_passes_and_above_it_drops(rule: str, text: str, share: float) -> None:
    texts = characters(pa.array([text]))
    for limit, kept in ((share, True), (share - 1e-6, False), (None, True)):
        verdict = repetition_verdict(
            texts, words(texts), [traits("en")], GopherRepetition.model_validate(NOTHING | {f"max_{rule}": limit})
        )
        assert verdict.kept.tolist() == [kept]
        dropped = verdict.split(pa.table({"text": [text]}))[1]
        assert dropped["reason"].to_pylist() == ([] if kept else [f"repetition_{rule}"])


@pytest.mark.parametrize(
    ("field", "size", "share", "reason"),
    [
        ("max_top_ngram_characters", 2, 6 / 17, "repetition_top_2_gram"),
        ("max_duplicate_ngram_characters", 3, 3 / 17, "repetition_duplicate_3_grams"),
    ],
)
def test_ngram_shares_at_the_threshold(field: str, size: int, share: float, reason: str) -> None:
    text = "a b c x a b c y z" if size == 3 else "a b q x a b c y z"
    texts = characters(pa.array([text]))
    for limit, kept in ((share, True), (share - 1e-6, False)):
        verdict = repetition_verdict(
            texts, words(texts), [traits("en")], GopherRepetition.model_validate(NOTHING | {field: {size: limit}})
        )
        dropped = verdict.split(pa.table({"text": [text]}))[1]
        assert dropped["reason"].to_pylist() == ([] if kept else [reason])


def test_limits_on_ngrams_are_wider_in_chinese() -> None:
    texts = characters(pa.array(["a b q x a b c y z"]))
    config = GopherRepetition.model_validate(NOTHING | {"max_top_ngram_characters": {2: 0.3}})  # 6 of 17 is 0.35
    kept = [repetition_verdict(texts, words(texts), [traits(code)], config).kept[0] for code in ("en", "zh", "de")]
    assert kept == [False, True, False]
