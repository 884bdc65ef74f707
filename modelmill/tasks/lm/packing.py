"""Document lengths and a row length → which piece of which document lies in which row. No token is dropped.

Two ways: `stream` lays documents end to end and cuts every `length` tokens (no padding); `best_fit` cuts only
documents longer than a row and packs what remains best-fit-decreasing (few documents broken, a little padding;
Ding et al. 2024, "Fewer Truncations Improve Language Modeling").
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

PackingKind = Literal["stream", "best_fit"]


@dataclass(frozen=True)
class Packing:
    """Pieces in row order: row r holds pieces [row_starts[r], row_starts[r + 1]); each is tokens
    [start, start + length) of a document."""

    row_starts: np.ndarray
    document: np.ndarray
    start: np.ndarray
    length: np.ndarray

    @property
    def num_rows(self) -> int:
        return len(self.row_starts) - 1

    def pieces(self, row: int) -> Iterator[tuple[int, int, int]]:
        """(document, start, length) of each piece of a row."""
        for piece in range(self.row_starts[row], self.row_starts[row + 1]):
            yield int(self.document[piece]), int(self.start[piece]), int(self.length[piece])


def pack(kind: PackingKind, lengths: np.ndarray, row_length: int) -> Packing:
    """Pack documents of these lengths (int64, in the order given) into rows of `row_length` tokens."""
    return pack_stream(lengths, row_length) if kind == "stream" else pack_best_fit(lengths, row_length)


def pack_stream(lengths: np.ndarray, row_length: int) -> Packing:
    """Documents end to end, cut every `row_length` tokens; only the last row may be short."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    cuts = np.arange(0, total, row_length, dtype=np.int64)
    starts = np.union1d(cuts, (ends - lengths)[lengths > 0])
    document = np.searchsorted(ends, starts, side="right")
    return Packing(
        row_starts=np.append(np.searchsorted(starts, cuts), len(starts)),
        document=document,
        start=starts - (ends - lengths)[document],
        length=np.diff(np.append(starts, total)),
    )


def pack_best_fit(lengths: np.ndarray, row_length: int) -> Packing:
    """Whole rows from long documents first, then rows of remainders and short documents, best fit, longest first."""
    whole = lengths // row_length
    whole_document = np.repeat(np.arange(len(lengths)), whole)
    whole_start = (np.arange(len(whole_document)) - np.repeat(np.cumsum(whole) - whole, whole)) * row_length
    rest = lengths - whole * row_length
    rest_document = np.flatnonzero(rest)
    rest_document = rest_document[np.argsort(-rest[rest_document], kind="stable")]
    bins = _best_fit(rest[rest_document], row_length)
    order = np.argsort(bins, kind="stable")
    rest_document = rest_document[order]
    num_bins = int(bins.max()) + 1 if len(bins) else 0
    rest_rows = np.searchsorted(bins[order], np.arange(num_bins + 1))
    return Packing(
        row_starts=np.concatenate([np.arange(len(whole_document)), len(whole_document) + rest_rows]),
        document=np.concatenate([whole_document, rest_document]),
        start=np.concatenate([whole_start, whole[rest_document] * row_length]),
        length=np.concatenate([np.full(len(whole_document), row_length), rest[rest_document]]),
    )


def _best_fit(sizes: np.ndarray, capacity: int) -> np.ndarray:
    """Bin number of each item (sizes falling): the fullest open bin that still has room, else a new one."""
    bins_by_room: dict[int, list[int]] = {}
    rooms: list[int] = []
    result = np.empty(len(sizes), dtype=np.int64)
    num_bins = 0
    for item, size in enumerate(sizes.tolist()):
        position = bisect_left(rooms, size)
        if position == len(rooms):
            chosen, room = num_bins, capacity
            num_bins += 1
        else:
            room = rooms[position]
            chosen = bins_by_room[room].pop()
            if not bins_by_room[room]:
                del bins_by_room[room], rooms[position]
        result[item] = chosen
        if room > size:
            if room - size not in bins_by_room:
                bins_by_room[room - size] = []
                insort(rooms, room - size)
            bins_by_room[room - size].append(chosen)
    return result
