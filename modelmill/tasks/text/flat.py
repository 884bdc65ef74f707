"""Arrow string column → code points in one flat array, and back."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

# Rows are worked on in slices of about this many UTF-8 bytes: large enough that calls do not count, small enough
# that the arrays of a slice stay in the processor's cache and memory does not grow with the shard.
SLICE_BYTES = 4_000_000


@dataclass(frozen=True)
class Characters:
    """Texts of several rows as Unicode code points: row i is `codes[offsets[i]:offsets[i + 1]]`. Both are read-only."""

    codes: NDArray[np.uint32]
    offsets: NDArray[np.int64]

    def __post_init__(self) -> None:
        # Always, since numba would compile every function a second time for arrays that may be written.
        self.codes.flags.writeable = self.offsets.flags.writeable = False

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of characters of each row."""
        return np.diff(self.offsets)


def utf8_buffers(column: pa.ChunkedArray | pa.Array) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The bytes of a string column and the offset of each row in them, without a copy where Arrow allows it.

    A null counts as an empty string.
    """
    # Cast before they are joined: chunks of 32-bit offsets cannot hold more than 2 GB together.
    large = column.cast(pa.large_string())
    array = large.combine_chunks() if isinstance(large, pa.ChunkedArray) else large
    assert isinstance(array, pa.Array)
    array = array.fill_null("")
    _, offsets_buffer, data_buffer = array.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int64, count=len(array) + 1, offset=array.offset * 8)
    data = np.frombuffer(data_buffer, np.uint8) if data_buffer is not None else np.zeros(0, np.uint8)
    return data, offsets


def characters(column: pa.ChunkedArray | pa.Array) -> Characters:
    """Decode a string column. Bytes that are not UTF-8 become U+FFFD."""
    data, offsets = utf8_buffers(column)
    codes = np.empty(offsets[-1] - offsets[0], np.uint32)
    begun = np.zeros(len(offsets), np.int64)
    count = _decode(data, offsets, codes, begun)
    return Characters(codes[:count], begun) if count >= 0 else _replaced(data, offsets)


@njit(cache=True, nogil=True)
def _decode(data, offsets, codes, begun):
    """Code points of UTF-8 rows and where each row begins in them; their number, or -1 where it is not UTF-8."""
    count = 0
    for row in range(len(offsets) - 1):
        i, stop = offsets[row], offsets[row + 1]
        while i < stop:
            first = np.uint32(data[i])
            i += 1
            if first < 0x80:
                codes[count] = first
                count += 1
                continue
            following = 1 if first < 0xE0 else 2 if first < 0xF0 else 3
            if first < 0xC2 or first > 0xF4 or i + following > stop:
                return -1
            code = first & np.uint32(0x3F >> following)
            for _ in range(following):
                if data[i] & 0xC0 != 0x80:
                    return -1
                code = np.uint32((code << np.uint32(6)) | (np.uint32(data[i]) & np.uint32(0x3F)))
                i += 1
            # Forms that are longer than they need be, surrogates, and what lies beyond Unicode.
            if (following == 2 and (code < 0x800 or 0xD800 <= code < 0xE000)) or (
                following == 3 and (code < 0x10000 or code > 0x10FFFF)
            ):
                return -1
            codes[count] = code
            count += 1
        begun[row + 1] = count
    return count


@njit(cache=True, nogil=True)
def _byte_offsets(codes, offsets):
    """Offsets in UTF-8 bytes for offsets in characters."""
    result = np.zeros(len(offsets), np.int64)
    for row in range(len(offsets) - 1):
        count = 0
        for i in range(offsets[row], offsets[row + 1]):
            count += 1 + (codes[i] >= 0x80) + (codes[i] >= 0x800) + (codes[i] >= 0x10000)
        result[row + 1] = result[row] + count
    return result


@njit(cache=True, nogil=True)
def _encode(codes, offsets, num_bytes):
    """UTF-8 of all rows, one after another."""
    data = np.empty(num_bytes, np.uint8)
    count = 0
    for i in range(offsets[0], offsets[-1]):
        code = codes[i]
        if code < 0x80:
            data[count] = code
            count += 1
            continue
        following = 1 if code < 0x800 else 2 if code < 0x10000 else 3
        data[count] = (0xFF00 >> following + 1 & 0xFF) | code >> np.uint32(6 * following)
        for place in range(following - 1, -1, -1):
            count += 1
            data[count] = 0x80 | (code >> np.uint32(6 * place) & np.uint32(0x3F))
        count += 1
    return data


def _replaced(data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> Characters:
    rows = [data[start:end].tobytes().decode("utf-8", "replace") for start, end in pairwise(offsets)]
    codes = np.frombuffer("".join(rows).encode("utf-32-le"), np.uint32)
    return Characters(codes, np.cumsum([0, *map(len, rows)], dtype=np.int64))


def string_array(texts: Characters) -> pa.LargeStringArray:
    """Encode rows of code points as an Arrow column."""
    ends = _byte_offsets(texts.codes, texts.offsets)
    data = _encode(texts.codes, texts.offsets, ends[-1])
    return pa.LargeStringArray.from_buffers(len(texts), pa.py_buffer(ends), pa.py_buffer(data))


def slices(table: pa.Table, column: str, slice_bytes: int = SLICE_BYTES) -> Iterator[pa.Table]:
    """Cut a table into consecutive slices whose `column` holds about `slice_bytes` bytes (at least one row each)."""
    _, offsets = utf8_buffers(table[column])
    start = 0
    while start < table.num_rows:
        stop = int(np.searchsorted(offsets, offsets[start] + slice_bytes, side="right")) - 1
        stop = min(max(stop, start + 1), table.num_rows)
        yield table.slice(start, stop - start)
        start = stop
