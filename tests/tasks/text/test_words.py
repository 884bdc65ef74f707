import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelmill.tasks.text.flat import Characters, characters, slices, string_array
from modelmill.tasks.text.words import words


def cut(text: str) -> list[str]:
    texts = characters(pa.array([text]))
    found = words(texts)
    return [text[start:end] for start, end in zip(found.starts, found.ends, strict=True)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I can't go, don't ask!", ["I", "ca", "n't", "go", ",", "do", "n't", "ask", "!"]),
        ("He'd've said (so).", ["He", "'d", "'ve", "said", "(", "so", ")", "."]),
        ("the well-known U.S. firm", ["the", "well", "-", "known", "U.S.", "firm"]),
        ("see https://a.org/x-y?z=1.", ["see", "https://a.org/x-y?z=1", "."]),
        ("10km... 3.5% e.g. Bob's", ["10", "km", "...", "3.5", "%", "e.g.", "Bob", "'s"]),
        ("end.Start a,b 5-6 x=y", ["end", ".", "Start", "a", ",", "b", "5", "-", "6", "x", "=", "y"]),
        ("def later(): f(x): (a.m.):", ["def", "later", "(", "):", "f(x", "):", "(", "a.m.", "):"]),
        ("世界人民！ok", ["世", "界", "人", "民", "！", "ok"]),
        ("", []),
        (" \n\t ", []),
    ],
)
def test_words_are_cut_where_the_published_filters_cut_them(text: str, expected: list[str]) -> None:
    assert cut(text) == expected


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(), max_size=5))
def test_text_survives_the_way_through_code_points(texts: list[str]) -> None:
    column = pa.array(texts, pa.large_string())
    assert string_array(characters(column)).to_pylist() == texts


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_words_cover_the_text_without_overlap(text: str) -> None:
    texts = characters(pa.array([text]))
    found = words(texts)
    assert all(start < end for start, end in zip(found.starts, found.ends, strict=True))
    assert all(found.ends[:-1] <= found.starts[1:])
    assert "".join("".join(cut(text)).split()) == "".join(text.split())


def test_bytes_that_are_not_text_become_replacement_characters() -> None:
    broken = pa.array([b"ab\xff\xc3", b"\xe4\xb8z", "中".encode()], pa.binary())
    column = pa.LargeStringArray.from_buffers(3, *broken.cast(pa.large_binary()).buffers()[1:])
    assert string_array(characters(column)).to_pylist() == ["ab\ufffd\ufffd", "\ufffdz", "中"]


def test_slices_keep_every_row_once_and_nulls_are_empty() -> None:
    table = pa.table({"text": ["a" * 10, None, "b" * 30, "c", "d" * 5]})
    pieces = list(slices(table, "text", slice_bytes=11))
    assert [piece.num_rows for piece in pieces] == [2, 1, 2]
    assert pa.concat_tables(pieces).equals(table)
    assert isinstance(characters(table["text"]), Characters)
    assert characters(table["text"]).lengths.tolist() == [10, 0, 30, 1, 5]
