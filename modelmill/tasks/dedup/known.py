"""Keys of a partition's rows → the rows that earlier artifacts know, and the documents there that stand for them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from modelmill.tasks.dedup.earlier import KINDS
from modelmill.tasks.dedup.shuffle import NONE_DROPPED, column, partition_range, partitions_of, read_rows


def read_keys(folder: Path, kind: str, partition: int, num_partitions: int) -> pa.Table:
    """The keys of one kind that belong to a partition, by binary search in mapped files."""
    start, stop = partition_range(partition, num_partitions)
    paths = sorted((folder / "keys").glob(f"{kind}-*.arrow"))
    parts = []
    for number, path in enumerate(paths):
        low, high = partition_range(number, len(paths))
        if low < stop and start < high:
            table = read_rows(path)
            first = np.searchsorted(column(table, "hash"), np.uint64(start))
            last = np.searchsorted(column(table, "hash"), np.uint64(stop - 1), side="right")
            parts.append(table.slice(first, last - first))
    return pa.concat_tables(parts)


def known_rows(keys: pa.Table, folders: Sequence[Path], kind: str, partition: int, num_partitions: int) -> pa.Table:
    """The rows of a partition whose key an earlier artifact holds, in order, and their survivor: `row`, `survivor`.

    keys: `row` and the key's columns. Of several survivors the one with the smallest hash counts.
    """
    columns = list(KINDS[kind][:-1])
    frame = pl.DataFrame(pl.from_arrow(keys.select(["row", *columns])))
    found = [
        frame.join(pl.DataFrame(pl.from_arrow(read_keys(folder, kind, partition, num_partitions))), on=columns)
        for folder in folders
    ]
    best = pl.concat(found).group_by("row").agg(pl.col("survivor").min()).sort("row")
    return best.to_arrow().cast(pa.schema([("row", pa.int64()), ("survivor", pa.uint64())]))


def known_before(keys: pa.Table, folders: Sequence[Path], kind: str, partition: int, num_partitions: int) -> pa.Table:
    """`known_rows` with the ids of the survivors: `row`, `survivor`; no row where there is no earlier artifact."""
    if not folders:
        return NONE_DROPPED
    return with_survivor_ids(known_rows(keys, folders, kind, partition, num_partitions), folders)


def with_survivor_ids(known: pa.Table, folders: Sequence[Path]) -> pa.Table:
    """The same rows with the ids of their survivors instead of the hashes of those."""
    survivors = known["survivor"].to_numpy()
    ids = np.full(len(survivors), None, object)
    for folder in folders:
        paths = sorted((folder / "keys").glob("ids-*.arrow"))
        of_file = partitions_of(survivors, len(paths))
        for number in np.unique(of_file):
            table = read_rows(paths[number])
            hashes, rows = column(table, "hash"), np.flatnonzero(of_file == number)
            at = np.searchsorted(hashes, survivors[rows])
            # An artifact knows its own survivors only.
            known_here = np.append(hashes, np.uint64(0))[at] == survivors[rows]
            known_here &= at < len(hashes)
            ids[rows[known_here]] = table["id"].take(pa.array(at[known_here])).to_pylist()
    return pa.table({"row": known["row"], "survivor": pa.array(ids, pa.large_string())})
