"""A folder of Parquet shards → a lazy table without the texts, and the texts of a few rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq

ROW = "row"
_BATCH_ROWS = 1_000
# The authority of an absolute address, without user and port.
_HOST = r"^[a-zA-Z][a-zA-Z0-9+.\-]*://(?:[^/?#@]*@)?(\[[^\]]*\]|[^/:?#]+)"


@dataclass(frozen=True)
class Shards:
    """The rows of all shards of a folder, numbered from 0 in the order of the file names."""

    paths: tuple[Path, ...]

    @cached_property
    def starts(self) -> list[int]:
        """Number of the first row of each shard, and one more: the number of all rows. Read from the footers."""
        return [0, *accumulate(pq.read_metadata(path).num_rows for path in self.paths)]

    @property
    def num_rows(self) -> int:
        return self.starts[-1]

    def rows(self, with_text: bool = False) -> pl.LazyFrame:
        """All columns but the text, and `row` and `host` ("" without an address)."""
        if not self.paths:
            return pl.LazyFrame(schema={"id": pl.String, "url": pl.String, "host": pl.String, ROW: pl.Int64})
        frame = pl.scan_parquet(list(self.paths), row_index_name=ROW)
        host = pl.col("url").str.extract(_HOST).str.to_lowercase().str.strip_chars_end(".").fill_null("")
        frame = frame.with_columns(pl.col(ROW).cast(pl.Int64), host=host)
        return frame if with_text else frame.drop("text", strict=False)

    def texts(self, rows: Sequence[int]) -> list[str]:
        """The texts of the rows with these numbers, in their order; "" where rows have none.

        Reads the row groups in which they lie, one batch of `_BATCH_ROWS` at a time.
        """
        found: dict[int, str] = {}
        wanted = np.unique(np.array(rows, np.int64))
        shards = np.searchsorted(self.starts, wanted, side="right") - 1
        for shard in np.unique(shards).tolist():
            found |= self._shard_texts(shard, wanted[shards == shard])
        return [found[row] for row in rows]

    def _shard_texts(self, shard: int, rows: np.ndarray) -> dict[int, str]:
        found: dict[int, str] = {}
        with pq.ParquetFile(self.paths[shard]) as file:
            if "text" not in file.schema_arrow.names:
                return dict.fromkeys(rows.tolist(), "")
            start = self.starts[shard]
            for group in range(file.num_row_groups):
                stop = start + file.metadata.row_group(group).num_rows
                inside = rows[(rows >= start) & (rows < stop)]
                if len(inside):
                    found |= _group_texts(file, group, start, inside)
                start = stop
        return found


def _group_texts(file: pq.ParquetFile, group: int, start: int, rows: np.ndarray) -> dict[int, str]:
    found: dict[int, str] = {}
    for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=["text"]):
        stop = start + batch.num_rows
        for row in rows[(rows >= start) & (rows < stop)].tolist():
            found[row] = batch.column(0)[row - start].as_py() or ""
        start = stop
        if start > rows[-1]:
            break
    return found


def shards_of(folder: Path) -> Shards:
    """The shards of a folder, none where it does not exist."""
    return Shards(tuple(sorted(folder.glob("*.parquet"))))
