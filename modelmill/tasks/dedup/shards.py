"""Shards of documents and the decisions made so far → the rows that each next step sees."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from modelmill.tasks.dedup.config import Config, Passages
from modelmill.tasks.dedup.hashing import mixed, string_hashes
from modelmill.tasks.dedup.lines import Lines, text_lines, without_lines
from modelmill.tasks.dedup.passages import without_passages
from modelmill.tasks.dedup.shuffle import rows_between
from modelmill.tasks.text.flat import Characters, characters, string_array
from modelmill.tasks.text.shards import read_shard


@dataclass(frozen=True)
class Shard:
    """One input file, or a few small ones, whose rows are numbered from `first_row` on, over all shards."""

    files: tuple[tuple[Path, int], ...]
    "Each with its number of rows."
    first_row: int

    @property
    def num_rows(self) -> int:
        return sum(num_rows for _, num_rows in self.files)

    @property
    def stop(self) -> int:
        """Number of the first row of the next shard."""
        return self.first_row + self.num_rows

    @property
    def file_starts(self) -> list[int]:
        """Number of the first row of each file, and `stop`."""
        return list(accumulate((num_rows for _, num_rows in self.files), initial=self.first_row))

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Its rows, with those of the columns that they have."""
        return pa.concat_tables([read_shard(path, columns) for path, _ in self.files], promote_options="default")

    @property
    def name(self) -> str:
        """Name of its files in a step's folder; a shard cut otherwise, in a run that goes on, has another."""
        return f"{self.first_row:012d}-{self.num_rows}.arrow"


@dataclass(frozen=True)
class Decisions:
    """Files with what the levels decided so far, to be searched by row.

    dropped: per level, files of (row, survivor). frequent_lines: files of (bucket, hash) of lines to remove
    everywhere. excess_lines, excess_passages: files of (row, line) and (row, passage) of single pieces to remove.
    """

    dropped: dict[str, list[Path]] = field(default_factory=dict)
    frequent_lines: list[Path] = field(default_factory=list)
    excess_lines: list[Path] = field(default_factory=list)
    excess_passages: list[Path] = field(default_factory=list)
    num_buckets: int = 1

    def after(self, level: str, paths: list[Path]) -> "Decisions":
        """The same with the rows that a level dropped."""
        return replace(self, dropped=self.dropped | {level: paths})


@dataclass(frozen=True)
class Remaining:
    """What is left of a shard: a table and the number of each of its rows; all dropped rows with their reason."""

    table: pa.Table
    rows: NDArray[np.int64]
    dropped: pa.Table
    dropped_rows: NDArray[np.int64]


def remaining(shard: Shard, decisions: Decisions, config: Config, columns: list[str] | None = None) -> Remaining:
    """Read a shard and apply what was decided so far: rows dropped at each level, then lines and passages removed.

    A text that loses all its lines is dropped with the reason `lines`, one that loses too much of itself in passages
    with the reason `passages`. Dropped rows keep their text as it came.
    """
    table = shard.read(columns)
    reasons = np.full(table.num_rows, None, object)
    survivors = np.full(table.num_rows, None, object)
    for level, paths in decisions.dropped.items():
        found = rows_between(paths, shard.first_row, shard.stop)
        if found is not None:
            positions = found["row"].to_numpy() - shard.first_row
            reasons[positions] = level
            survivors[positions] = found["survivor"].to_pylist()
    edited = table
    if decisions.frequent_lines or decisions.excess_lines:
        present = np.flatnonzero(reasons == None)  # noqa: E711  # element by element
        rows, column, emptied = _edited_texts(table, shard, present, decisions)
        reasons[rows[emptied]] = "lines"
        edited = _with_texts(table, rows, column)
    if decisions.excess_passages:
        present = np.flatnonzero(reasons == None)  # noqa: E711
        rows, column, shortened = _without_passages(edited, shard, present, decisions, config.passages)
        reasons[rows[shortened]] = "passages"
        edited = _with_texts(edited, rows, column)
    kept = np.flatnonzero(reasons == None)  # noqa: E711
    gone = np.flatnonzero(reasons != None)  # noqa: E711
    dropped = table.take(pa.array(gone))
    dropped = dropped.append_column("reason", pa.array(reasons[gone], pa.string()))
    dropped = dropped.append_column("survivor", pa.array(survivors[gone], pa.string()))
    return Remaining(edited.take(pa.array(kept)), kept + shard.first_row, dropped, gone + shard.first_row)


def line_buckets(table: pa.Table, num_buckets: int) -> NDArray[np.int64]:
    """The bucket of each document for the Llama line rule, from its id."""
    return (string_hashes(table["id"], seed=3) % np.uint64(num_buckets)).astype(np.int64)


def document_order(table: pa.Table) -> NDArray[np.uint64]:
    """A number for each document that orders all documents alike, wherever they lie: from id and text."""
    return mixed(string_hashes(table["id"], seed=4), string_hashes(table["text"], seed=4))


def _with_texts(table: pa.Table, rows: NDArray[np.int64], column: pa.Array) -> pa.Table:
    """The table with new texts in `rows`."""
    position = np.arange(table.num_rows)
    position[rows] = table.num_rows + np.arange(len(rows))
    field = table.schema.field("text")
    both = pa.concat_arrays([*table["text"].cast(pa.large_string()).chunks, column])
    texts = both.take(pa.array(position)).cast(field.type)
    return table.set_column(table.column_names.index("text"), field, texts)


def _edited_texts(
    table: pa.Table, shard: Shard, present: NDArray[np.int64], decisions: Decisions
) -> tuple[NDArray[np.int64], pa.Array, NDArray[np.bool_]]:
    """Rows that may lose lines, their texts without the lines to remove, and which of them that leaves empty."""
    positions, numbers = _pieces(decisions.excess_lines, "line", shard, present)
    # What is frequent may be in any text; for single lines only the texts that have one need to be cut.
    rows = present if decisions.frequent_lines else np.unique(positions)
    chosen = table.select(["id", "text"]).take(pa.array(rows))
    texts = characters(chosen["text"])
    lines = text_lines(texts)
    removed = _frequent(lines, chosen, decisions)
    removed[lines.offsets[np.searchsorted(rows, positions)] + numbers] = True
    edited: Characters = without_lines(texts, lines, removed)
    return rows, string_array(edited), (edited.lengths == 0) & (texts.lengths > 0)


def _without_passages(
    table: pa.Table, shard: Shard, present: NDArray[np.int64], decisions: Decisions, config: Passages
) -> tuple[NDArray[np.int64], pa.Array, NDArray[np.bool_]]:
    """Rows that lose passages, their texts without them, and which of them keep too little."""
    positions, numbers = _pieces(decisions.excess_passages, "passage", shard, present)
    rows = np.unique(positions)
    texts = characters(table["text"].take(pa.array(rows)))
    edited = without_passages(texts, config.unit, np.searchsorted(rows, positions), numbers)
    return rows, string_array(edited), edited.lengths < config.min_kept_share * texts.lengths


def _pieces(
    paths: list[Path], name: str, shard: Shard, present: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Position in the shard and number of the pieces to remove from the rows that are still present."""
    found = rows_between(paths, shard.first_row, shard.stop)
    if found is None:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    positions, numbers = found["row"].to_numpy() - shard.first_row, found[name].to_numpy()
    # A later level may have dropped the row since its pieces were counted.
    still = np.isin(positions, present)
    return positions[still], numbers[still]


def _frequent(lines: Lines, table: pa.Table, decisions: Decisions) -> NDArray[np.bool_]:
    removed = np.zeros(len(lines.hashes), bool)
    if decisions.frequent_lines:
        buckets = line_buckets(table, decisions.num_buckets)[lines.texts]
        for path in decisions.frequent_lines:
            with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
                frequent = reader.read_all()
            for bucket in range(decisions.num_buckets):
                of_bucket = frequent["hash"].to_numpy()[frequent["bucket"].to_numpy() == bucket]
                removed |= (buckets == bucket) & np.isin(lines.hashes, of_bucket)
    return removed & ~lines.blank
