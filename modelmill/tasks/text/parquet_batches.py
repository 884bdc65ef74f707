"""A Parquet file → tables of a number of rows, in memory that follows from that number and not from what a file claims.

A few kilobytes of Parquet can stand for gigabytes: every row may name one large entry of a dictionary, or share all but
a byte with the row before. So the files are decoded in batches that are as short as their encodings are dangerous. What
remains is the format's own largest page, 2 GB.
"""

from collections.abc import Iterator, Sequence
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

MOST_BYTES = 128_000_000  # of a table
_BATCH_BYTES = 32_000_000  # what a batch may grow to
_PREFIX_SHARING = "DELTA_BYTE_ARRAY"
_DICTIONARY_PAGE = 2
_HEADER_BYTES = 32


def bounded_tables(
    stream: IO[bytes], num_rows: int, columns: Sequence[str] | None = None, most_bytes: int = MOST_BYTES
) -> Iterator[tuple[int, pa.Table]]:
    """(number of its first row, table) of `num_rows` rows each, or fewer where they are larger than `most_bytes`.

    Raises:
        pa.ArrowException, OSError: the file is damaged, or no Parquet at all.
    """
    file = pq.ParquetFile(stream)
    held: list[pa.RecordBatch] = []
    first = rows = size = 0
    for batch in file.iter_batches(batch_size=min(_batch_rows(file, stream, columns), num_rows), columns=columns):
        while batch.num_rows:
            part = batch.slice(0, num_rows - rows)
            batch = batch.slice(part.num_rows)
            held.append(part)
            rows, size = rows + part.num_rows, size + part.get_total_buffer_size()
            if rows == num_rows or size >= most_bytes:
                table, held, size = _joined(held), [], 0
                rows %= num_rows
                del part  # nothing of it is held beside the table
                yield first, table
                first += table.num_rows
                del table
    if held:
        yield first, _joined(held)


def _joined(batches: list[pa.RecordBatch]) -> pa.Table:
    return pa.Table.from_batches(batches).combine_chunks()


def _batch_rows(file: pq.ParquetFile, stream: IO[bytes], columns: Sequence[str] | None) -> int:
    """Rows whose values cannot take more than _BATCH_BYTES, by the largest single value that the encodings allow."""
    largest = 1
    for group in map(file.metadata.row_group, range(file.metadata.num_row_groups)):
        for chunk in map(group.column, range(group.num_columns)):
            if columns is not None and chunk.path_in_schema.partition(".")[0] not in columns:
                continue
            if chunk.physical_type not in ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY"):
                continue
            if _PREFIX_SHARING in chunk.encodings:
                largest = max(largest, chunk.total_uncompressed_size)
            if chunk.dictionary_page_offset is not None:
                largest = max(largest, _dictionary_bytes(stream, chunk.dictionary_page_offset))
    return max(_BATCH_BYTES // largest, 1)


def _dictionary_bytes(stream: IO[bytes], offset: int) -> int:
    """Decompressed size of the dictionary page at an offset, as its header names it (Thrift's compact protocol)."""
    stream.seek(offset)
    header = stream.read(_HEADER_BYTES)
    kind, position = _field(header, 0)
    size, _ = _field(header, position)
    return size if kind == _DICTIONARY_PAGE else MOST_BYTES


def _field(header: bytes, position: int) -> tuple[int, int]:
    """A 32-bit field at a position, and the position behind it; a size beyond all limits for what is none."""
    if header[position : position + 1] != b"\x15":  # the next field, of type i32
        return MOST_BYTES, position
    value = 0
    for index in range(position + 1, len(header)):
        value |= (header[index] & 0x7F) << 7 * (index - position - 1)
        if header[index] < 0x80:
            return value >> 1, index + 1  # zigzag: sizes are not negative
    return MOST_BYTES, position
