"""Rows of many shards → rows by partition: each writer leaves one file with a record batch per partition.

One file a writer, not one a writer and partition: ten thousand shards in a thousand partitions stay ten thousand
files, and a reader maps just its own batch of each.
"""

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from modelmill.tasks.files import atomic_path

# Partitions are told apart by the 31 bits above these, so that their product with a number of partitions fits.
_LOW_BITS = np.uint64(33)


# What a level decides: rows, and the id of the document that stands for each.
DROPPED = pa.schema([("row", pa.int64()), ("survivor", pa.large_string())])
NONE_DROPPED = DROPPED.empty_table()


def partitions_of(hashes: NDArray[np.uint64], num_partitions: int) -> NDArray[np.int64]:
    """The partition of each hash: equal stretches of the range of hashes, in order."""
    return ((hashes >> _LOW_BITS) * np.uint64(num_partitions) >> np.uint64(64 - int(_LOW_BITS))).astype(np.int64)


def partition_range(partition: int, num_partitions: int) -> tuple[int, int]:
    """First hash of a partition, and of the next one (2^64 after the last)."""
    steps = 1 << 64 - int(_LOW_BITS)
    first, last = (-(-number * steps // num_partitions) for number in (partition, partition + 1))
    return first << int(_LOW_BITS), last << int(_LOW_BITS)


def write_partitions(table: pa.Table, partition: NDArray[np.int64], num_partitions: int, path: Path) -> None:
    """Write the rows of a table as `num_partitions` record batches, row i in batch `partition[i]`."""
    order = np.argsort(partition, kind="stable")
    bounds = np.searchsorted(partition[order], np.arange(num_partitions + 1))
    ordered = table.take(pa.array(order)).combine_chunks()
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with atomic_path(path) as temporary, pa.ipc.new_file(str(temporary), table.schema, options=options) as writer:
        for start, stop in pairwise(bounds):
            rows = ordered.slice(start, stop - start)
            batches = rows.to_batches() if rows.num_rows else []
            writer.write_batch(batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema))


def read_partition(paths: Iterable[Path | str], partition: int) -> pa.Table:
    """The rows of one partition from the files of all writers, in the order of `paths`."""
    batches = []
    for path in paths:
        with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
            batches.append(reader.get_batch(partition))
    return pa.Table.from_batches(batches)


def write_rows(table: pa.Table, path: Path) -> None:
    """Write a table as one file that `rows_between` can search if its column `row` ascends."""
    with atomic_path(path) as temporary, pa.ipc.new_file(str(temporary), table.schema) as writer:
        for batch in table.combine_chunks().to_batches():
            writer.write_batch(batch)


def read_rows(path: Path | str) -> pa.Table:
    """All rows of a file made by `write_rows` (mapped, not read) or by `write_partitions`."""
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
        return reader.read_all()


def column(table: pa.Table, name: str) -> NDArray:
    """A column of numbers without null, not copied where it lies in one piece."""
    return (
        table[name].combine_chunks().to_numpy()
        if table.num_rows
        else np.zeros(0, table.schema.field(name).type.to_pandas_dtype())
    )


def rows_between(paths: Iterable[Path | str], start: int, stop: int) -> pa.Table | None:
    """The rows with `start <= row < stop` of files made by `write_rows`, found by binary search in mapped memory."""
    parts = []
    for path in paths:
        table = read_rows(path)
        first, last = np.searchsorted(column(table, "row"), (start, stop))
        parts.append(table.slice(first, last - first))
    return pa.concat_tables(parts) if parts else None
