"""Document lengths and a row length → which piece of which document lies in which row. No token is dropped.

Two ways: `stream` lays documents end to end and cuts every `length` tokens (no padding); `best_fit` cuts only
documents longer than a row and packs what remains best-fit-decreasing (few documents broken, a little padding;
Ding et al. 2024, "Fewer Truncations Improve Language Modeling").
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
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
    """Bin number of each item (sizes falling): the fullest open bin that still has room, else a new one.

    Equal items are placed together: each bin with the least sufficient room takes as many as fit, since after one item
    it has still less room than the others. So the work grows with the number of different sizes, not of items.
    """
    bins = _OpenBins(capacity)
    result = np.empty(len(sizes), dtype=np.int64)
    borders = np.flatnonzero(np.diff(sizes, prepend=-1, append=-1))
    for start, end in pairwise(borders.tolist()):
        size, item = int(sizes[start]), start
        while item < end:
            room, chosen = bins.take(size, end - item)
            each = room // size
            num_items = min(len(chosen) * each, end - item)
            result[item : item + num_items] = np.repeat(chosen, each)[:num_items]
            item += num_items
            full = num_items // each
            bins.put(room - each * size, chosen[:full])
            bins.put(room - num_items % each * size, chosen[full:])
    return result


class _OpenBins:
    """Bins with room left: for each room a stack of runs of bin numbers, the newest last."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.rooms: list[int] = []
        self.stacks: dict[int, list[np.ndarray]] = {}
        self.num_bins = 0

    def take(self, size: int, num_items: int) -> tuple[int, np.ndarray]:
        """The least room that holds `size`, and the newest bins with it, no more than `num_items` items need."""
        position = bisect_left(self.rooms, size)
        if position == len(self.rooms):
            opened = -(-num_items // (self.capacity // size))
            self.num_bins += opened
            return self.capacity, np.arange(self.num_bins - opened, self.num_bins)
        room = self.rooms[position]
        newest = self.stacks[room].pop()
        if not self.stacks[room]:
            del self.stacks[room], self.rooms[position]
        wanted = -(-num_items // (room // size))
        if wanted < len(newest):
            self.put(room, newest[:-wanted])
        return room, newest[::-1][:wanted]

    def put(self, room: int, numbers: np.ndarray) -> None:
        """Bins with this room; those without any are closed."""
        if room == 0 or len(numbers) == 0:
            return
        if room not in self.stacks:
            self.stacks[room] = []
            insort(self.rooms, room)
        self.stacks[room].append(numbers)
