"""Arrow string column → code points in one flat array, and back."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

# Rows are worked on in slices of about this many UTF-8 bytes: large enough that calls do not count, small enough
# that the arrays of a slice stay in the processor's cache and memory does not grow with the shard.
SLICE_BYTES = 4_000_000
REPLACEMENT = 0xFFFD


@dataclass(frozen=True)
class Characters:
    """Texts of several rows as Unicode code points: row i is `codes[offsets[i]:offsets[i + 1]]`."""

    codes: NDArray[np.uint32]
    offsets: NDArray[np.int64]

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
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], pa.large_string())
    array = array.cast(pa.large_string()).fill_null("")
    _, offsets_buffer, data_buffer = array.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int64, count=len(array) + 1, offset=array.offset * 8)
    data = np.frombuffer(data_buffer, np.uint8) if data_buffer is not None else np.zeros(0, np.uint8)
    return data, offsets


def characters(column: pa.ChunkedArray | pa.Array) -> Characters:
    """Decode a string column. Bytes that are not UTF-8 become U+FFFD."""
    data, offsets = utf8_buffers(column)
    codes, code_offsets = _decode(data, offsets)
    return Characters(codes, code_offsets)


def string_array(texts: Characters) -> pa.LargeStringArray:
    """Encode rows of code points as an Arrow column."""
    data, offsets = _encode(texts.codes, texts.offsets)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    return pa.LargeStringArray.from_buffers(len(texts), buffers[1], buffers[2])


def slices(table: pa.Table, column: str, slice_bytes: int = SLICE_BYTES) -> Iterator[pa.Table]:
    """Cut a table into consecutive slices whose `column` holds about `slice_bytes` bytes (at least one row each)."""
    _, offsets = utf8_buffers(table[column])
    start = 0
    while start < table.num_rows:
        stop = int(np.searchsorted(offsets, offsets[start] + slice_bytes, side="right")) - 1
        stop = min(max(stop, start + 1), table.num_rows)
        yield table.slice(start, stop - start)
        start = stop


@njit(cache=True, nogil=True)
def _decode(data, offsets):  # one branch per length of a UTF-8 sequence
    num_rows = len(offsets) - 1
    codes = np.empty(offsets[num_rows] - offsets[0], np.uint32)
    code_offsets = np.zeros(num_rows + 1, np.int64)
    count = 0
    for row in range(num_rows):
        position, end = offsets[row], offsets[row + 1]
        while position < end:
            first = np.uint32(data[position])
            if first < 0x80:
                codes[count] = first
                count += 1
                position += 1
                continue
            if first < 0xE0:
                num_more, code, smallest = 1, first & np.uint32(0x1F), 0x80
            elif first < 0xF0:
                num_more, code, smallest = 2, first & np.uint32(0x0F), 0x800
            else:
                num_more, code, smallest = 3, first & np.uint32(0x07), 0x10000
            valid = 0xC2 <= first <= 0xF4 and position + num_more < end
            if valid:
                for step in range(1, num_more + 1):
                    byte = np.uint32(data[position + step])
                    valid = valid and (byte & np.uint32(0xC0)) == 0x80
                    code = (code << np.uint32(6)) | (byte & np.uint32(0x3F))
                valid = valid and smallest <= code < 0x110000 and not 0xD800 <= code < 0xE000
            codes[count] = code if valid else np.uint32(REPLACEMENT)
            count += 1
            position += num_more + 1 if valid else 1
        code_offsets[row + 1] = count
    return codes[:count].copy(), code_offsets


@njit(cache=True, nogil=True)
def _encode(codes, offsets):
    num_rows = len(offsets) - 1
    size = 0
    for i in range(offsets[0], offsets[num_rows]):
        code = codes[i]
        size += 1 + (code >= 0x80) + (code >= 0x800) + (code >= 0x10000)
    data = np.empty(size, np.uint8)
    data_offsets = np.zeros(num_rows + 1, np.int64)
    count = 0
    for row in range(num_rows):
        for i in range(offsets[row], offsets[row + 1]):
            code = codes[i]
            if code < 0x80:
                data[count] = code
                count += 1
                continue
            num_more = 1 + (code >= 0x800) + (code >= 0x10000)
            lead = 0xC0 if num_more == 1 else (0xE0 if num_more == 2 else 0xF0)
            data[count] = lead | (code >> np.uint32(6 * num_more))
            for step in range(1, num_more + 1):
                data[count + step] = 0x80 | ((code >> np.uint32(6 * (num_more - step))) & 0x3F)
            count += num_more + 1
        data_offsets[row + 1] = count
    return data, data_offsets
