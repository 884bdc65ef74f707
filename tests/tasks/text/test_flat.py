"""UTF-8 bytes ↔ code points, against Python's own codec."""

import numpy as np
import pyarrow as pa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from modelmill.tasks.text.flat import characters, string_array


def column(rows: list[bytes]) -> pa.LargeStringArray:
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    return pa.LargeStringArray.from_buffers(len(rows), pa.py_buffer(offsets), pa.py_buffer(b"".join(rows)))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=8), max_size=5), st.integers(0, 2))
def test_texts_come_back(texts: list[str], start: int) -> None:
    decoded = characters(pa.array(texts, pa.large_string()).slice(start))
    assert string_array(decoded).to_pylist() == texts[start:]
    assert decoded.lengths.tolist() == list(map(len, texts[start:]))


BYTES = st.one_of(st.binary(max_size=6), st.text(max_size=3).map(str.encode))


@settings(max_examples=300, deadline=None)
@given(st.lists(BYTES, max_size=4))
@example([b"\xc0\x80", b"\xc1\xbf"])  # longer than need be
@example([b"\xe0\x9f\xbf", b"\xf0\x8f\xbf\xbf"])
@example([b"\xed\xa0\x80", b"\xed\x9f\xbf\xee\x80\x80"])  # a surrogate, and its neighbours
@example([b"\xf4\x90\x80\x80", b"\xf4\x8f\xbf\xbf\xf5\x80\x80\x80"])  # beyond Unicode
@example([b"\xe4\xbd", b"\xa0"])  # a character cut between two rows
def test_bytes_that_are_not_utf8_are_replaced_as_python_does(rows: list[bytes]) -> None:
    decoded = characters(column(rows))
    assert string_array(decoded).to_pylist() == [row.decode("utf-8", "replace") for row in rows]
