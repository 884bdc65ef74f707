import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelmill.tasks.lm.packing import PackingKind, pack


@pytest.mark.parametrize("kind", ["stream", "best_fit"])
@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=30), row_length=st.integers(1, 12))
def test_every_token_lies_in_exactly_one_row(kind: PackingKind, lengths: list[int], row_length: int) -> None:
    packing = pack(kind, np.array(lengths), row_length)
    seen = np.zeros(sum(lengths), dtype=int)
    offsets = np.cumsum([0, *lengths])
    for row in range(packing.num_rows):
        pieces = list(packing.pieces(row))
        assert 0 < sum(length for _, _, length in pieces) <= row_length
        for document, start, length in pieces:
            assert length > 0
            assert start + length <= lengths[document]
            seen[offsets[document] + start : offsets[document] + start + length] += 1
    assert (seen == 1).all()


def test_stream_wastes_only_the_last_row() -> None:
    assert pack("stream", np.array([7, 5, 9]), 4).num_rows == 6


def test_best_fit_keeps_documents_whole_and_rows_full() -> None:
    lengths = np.array([5, 3, 6, 2, 4, 4, 7, 1])
    packing = pack("best_fit", lengths, 8)
    assert packing.num_rows == lengths.sum() // 8
    assert sorted(packing.length.tolist()) == sorted(lengths.tolist())


def test_the_number_of_rows_does_not_depend_on_the_order() -> None:
    lengths = np.random.default_rng(0).integers(1, 50, 200)
    for kind in ("stream", "best_fit"):
        counts = {pack(kind, np.random.default_rng(seed).permutation(lengths), 16).num_rows for seed in range(5)}
        assert len(counts) == 1


@settings(max_examples=100, deadline=None)
@given(lengths=st.lists(st.integers(1, 60), max_size=80), row_length=st.integers(1, 60))
def test_best_fit_is_the_rule_item_by_item(lengths: list[int], row_length: int) -> None:
    sizes = sorted((length for length in lengths if length < row_length), reverse=True)
    room: list[int] = []  # of each bin
    newest: list[int] = []  # bins, in the order in which they got their room
    for size in sizes:
        fitting = [number for number in newest if room[number] >= size]
        if not fitting:
            room.append(row_length)
            fitting = [len(room) - 1]
        least = min(room[number] for number in fitting)
        chosen = [number for number in fitting if room[number] == least][-1]
        room[chosen] -= size
        newest = [*(number for number in newest if number != chosen), chosen]
    packing = pack("best_fit", np.array(sizes, dtype=np.int64), row_length)
    used = np.add.reduceat(packing.length, packing.row_starts[:-1]) if sizes else np.array([])
    assert (row_length - used).tolist() == room
