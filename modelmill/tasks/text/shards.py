"""Tables ↔ Parquet shards, written whole and with equal bytes for equal rows."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from modelmill.tasks.errors import InputError
from modelmill.tasks.files import atomic_path

ROW_GROUP_ROWS = 10_000


def write_shard(table: pa.Table, path: Path) -> None:
    """Write one shard (zstd). Chunking of the table does not show in the bytes."""
    with atomic_path(path) as temporary:
        pq.write_table(table.combine_chunks(), temporary, compression="zstd", row_group_size=ROW_GROUP_ROWS)


def read_shard(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a shard, or those of the columns that it has."""
    with pq.ParquetFile(path) as file:
        present = [name for name in file.schema_arrow.names if columns is None or name in columns]
        return file.read(columns=present)


def shard_rows(path: Path) -> int:
    """Number of rows, from the footer."""
    return pq.read_metadata(path).num_rows


def shard_paths(folder: Path) -> list[Path]:
    """The shards of a folder in the order of their names.

    Raises:
        InputError: there is none.
    """
    paths = sorted(folder.glob("*.parquet"))
    if not paths:
        raise InputError(f"no *.parquet in {folder}; the stage before it should have written shards there")
    return paths
