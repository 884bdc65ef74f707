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


def partitions_of(hashes: NDArray[np.uint64], num_partitions: int) -> NDArray[np.int64]:
    """The partition of each hash, by its high bits (its low bits order rows within one)."""
    return ((hashes >> np.uint64(33)) % np.uint64(num_partitions)).astype(np.int64)


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
    """Write a table as one file that `rows_between` can search; its column `row` must ascend."""
    with atomic_path(path) as temporary, pa.ipc.new_file(str(temporary), table.schema) as writer:
        for batch in table.combine_chunks().to_batches():
            writer.write_batch(batch)


def rows_between(paths: Iterable[Path | str], start: int, stop: int) -> pa.Table | None:
    """The rows with `start <= row < stop` of files made by `write_rows`, found by binary search in mapped memory."""
    parts = []
    for path in paths:
        with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
            table = reader.read_all()
            rows = table["row"].combine_chunks().to_numpy() if table.num_rows else np.zeros(0, np.int64)
            first, last = np.searchsorted(rows, (start, stop))
            parts.append(table.slice(first, last - first))
    return pa.concat_tables(parts) if parts else None
