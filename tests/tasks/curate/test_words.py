"""Words, prose and hashes: what counts as a word in several scripts, and as a line of prose."""

import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelmill.tasks.curate.words import prose_shares, string_hashes, word_hashes


def hashes(text: str) -> list[int]:
    return word_hashes(pa.array([text])).hashes.tolist()


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("one two,three", 3),
        ("it's a_b c-d", 5),
        ("数据清洗 data", 5),
        ("naïve café", 2),
        ("カタ한국 말", 4),
        ("“quoted” — text…", 2),
        ("a\u00a0b\u3000c，d", 4),
    ],
)
def test_word_counts(text: str, count: int) -> None:
    assert len(hashes(text)) == count


def test_case_width_and_punctuation_do_not_matter() -> None:
    assert hashes("The Mill, 42!") == hashes("the mill 42") == hashes("Ｔｈｅ ｍｉｌｌ (42)")
    assert hashes("ÉCOLE") == hashes("e\u0301cole")
    assert hashes("wheat") != hashes("wheal")


@settings(deadline=None)
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=5))
def test_documents_do_not_touch_each_other(texts: list[str]) -> None:
    words = word_hashes(pa.array(texts, pa.string()))
    assert [words.hashes[a:b].tolist() for a, b in zip(words.offsets, words.offsets[1:], strict=False)] == [
        hashes(text) for text in texts
    ]


def test_nulls_slices_and_chunks() -> None:
    column = pa.chunked_array([pa.array(["left out", "a b"]), pa.array([None, "c"], pa.string())]).slice(1)
    assert word_hashes(column).offsets.tolist() == [0, 2, 2, 3]
    assert word_hashes(pa.chunked_array([], pa.string())).offsets.tolist() == [0]


def test_prose_share() -> None:
    sentence = "The miller carries the flour to the bakery in the village."
    signature = "grind(self, grain, *, stones=2, speed: float = 1.0) -> Flour"
    chinese = "磨坊主把面粉送到村里的面包店。"
    shares = prose_shares(
        pa.array([sentence, signature, f"{sentence}\n{signature}", chinese, "", "- a list of some six words"])
    )
    letters = [len("".join(text.split())) for text in (sentence, signature)]
    assert shares.tolist() == pytest.approx([1, 0, letters[0] / sum(letters), 1, 0, 0])


def test_string_hashes_spread_and_depend_on_the_salt() -> None:
    ids = pa.array([unicodedata.normalize("NFC", f"document-{number}") for number in range(20_000)])
    first, second = string_hashes(ids, 0), string_hashes(ids, 1)
    assert len(np.unique(first)) == 20_000
    for values in (first, second, first ^ second):
        assert 0.045 < np.mean(values < np.uint64(2**64 // 20)) < 0.055
