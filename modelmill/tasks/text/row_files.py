"""A user's JSONL or Parquet file ↔ batches of rows as Arrow tables, nothing of a row lost on the way.

A row of JSON keeps its line in a column of its own, beside the fields that a step reads: what a step does not know
of (nested values, changing types) comes out as it went in.
"""

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from modelmill.tasks.errors import InputError
from modelmill.tasks.text.bounded_lines import bounded_lines, json_value, plain_stream, without_surrogates
from modelmill.tasks.text.parquet_batches import bounded_tables

LINE = "__line__"
BATCH_BYTES = 16_000_000
BATCH_ROWS = 5_000
MAX_LINE_BYTES = 64_000_000  # of a row of JSON: a book has a few million
JSONL_SUFFIXES = (".jsonl", ".jsonl.gz")
PARQUET_SUFFIXES = (".parquet",)
# Fields that a step reads and never changes: they are written back as they were, not as Arrow read them.
_READ_ONLY = frozenset(("id", "url", "date", "html", LINE))


def file_suffix(path: Path, suffixes: Sequence[str]) -> str:
    """The suffix of a path among those given.

    Raises:
        InputError: it has another.
    """
    for suffix in sorted(suffixes, key=len, reverse=True):
        if path.name.endswith(suffix) and path.name != suffix:
            return suffix
    raise InputError(f"cannot tell the format of {path.name}: expected a name that ends in {', '.join(suffixes)}")


def read_rows(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> Iterator[pa.Table]:
    """Batches of rows of a .jsonl, .jsonl.gz or .parquet file, with at least the required columns.

    Raises:
        InputError: no such file, another suffix, a missing column, or a row that cannot be read (with its number).
    """
    suffix = file_suffix(path, (*JSONL_SUFFIXES, *PARQUET_SUFFIXES))
    if not path.is_file():
        raise InputError(f"no file {path}; name an existing JSONL or Parquet file")
    if suffix in PARQUET_SUFFIXES:
        yield from _parquet_rows(path, required)
    else:
        yield from _json_rows(path, required, optional)


def _parquet_rows(path: Path, required: Sequence[str]) -> Iterator[pa.Table]:
    with path.open("rb") as stream:
        try:
            names = pq.ParquetFile(stream).schema_arrow.names
            if missing := [name for name in required if name not in names]:
                raise _missing(path, missing, names)
            stream.seek(0)
            for _, table in bounded_tables(stream, BATCH_ROWS):
                yield table
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{path} cannot be read as Parquet ({error}); is it whole?") from error


def _missing(path: Path, missing: Sequence[str], found: Sequence[str], where: str = "") -> InputError:
    return InputError(
        f"{path}{where} has no {' and no '.join(missing)}; it has {', '.join(found) or 'nothing'}. Rename a column, "
        "or add it"
    )


def _json_rows(path: Path, required: Sequence[str], optional: Sequence[str]) -> Iterator[pa.Table]:
    fields = [*required, *optional]
    lines: list[bytes] = []
    values: list[list[str | None]] = []
    size = 0
    for number, line in _lines(path):
        values.append(_fields(line, fields, required, path, number))
        lines.append(line)
        size += len(line)
        if size >= BATCH_BYTES or len(lines) >= BATCH_ROWS:
            yield _json_table(lines, values, fields)
            lines, values, size = [], [], 0
    if lines:
        yield _json_table(lines, values, fields)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, numbered from 1.

    Raises:
        InputError: the file is damaged, or a line is too long to be a row.
    """
    number = 0
    with path.open("rb") as raw:
        try:
            for line in bounded_lines(plain_stream(raw), MAX_LINE_BYTES):
                number = line.number
                if line.content is None:
                    raise InputError(
                        f"{path} line {number} has more than {MAX_LINE_BYTES:,} bytes; expected one object a line. "
                        "Split the row, or take it out"
                    )
                yield number, line.content
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise InputError(f"{path} is damaged after line {number} ({error}); get a whole copy of it") from error


def _fields(line: bytes, fields: Sequence[str], required: Sequence[str], path: Path, number: int) -> list[str | None]:
    try:
        row = json_value(line)
    except ValueError as error:
        raise InputError(f"{path} line {number} is not JSON ({error}); expected one object a line") from error
    if not isinstance(row, dict):
        raise InputError(f"{path} line {number} is a {type(row).__name__}; expected one object a line")
    missing = [name for name in required if name not in row]
    if missing:
        raise _missing(path, missing, list(row), f" line {number}")
    return [_field(row.get(name), name, path, number) for name in fields]


def _field(value: Any, name: str, path: Path, number: int) -> str | None:
    if name == "id" and isinstance(value, int | float):
        value = str(value)
    if value is None:
        return None
    if not isinstance(value, str):
        raise InputError(f"{path} line {number}: {name} is a {type(value).__name__}; expected a string")
    return without_surrogates(value)


def _json_table(lines: list[bytes], values: list[list[str | None]], fields: Sequence[str]) -> pa.Table:
    columns: dict[str, Any] = {
        name: list(column) for name, column in zip(fields, zip(*values, strict=True), strict=True)
    }
    arrays = {name: pa.array(column, pa.large_string()) for name, column in columns.items()}
    return pa.table({**arrays, LINE: pa.array(lines, pa.large_binary())})


class RowWriter(Protocol):
    """Writes batches of rows to one file."""

    def write(self, table: pa.Table) -> None:
        """Append the rows of a table."""
        ...

    def __enter__(self) -> "RowWriter": ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def row_writer(path: Path, suffix: str) -> RowWriter:
    """A writer of the format that the suffix names, to a path that may be named otherwise (a temporary one)."""
    return ParquetRows(path) if suffix in PARQUET_SUFFIXES else JsonRows(path, suffix.endswith(".gz"))


class JsonRows:
    """Writes one JSON object a line; rows read from JSON keep their other fields and their order."""

    def __init__(self, path: Path, compress: bool) -> None:
        self._raw = path.open("wb")
        # Without a name and a time, so that equal rows are equal bytes.
        self._file = gzip.GzipFile("", "wb", 6, self._raw, mtime=0) if compress else self._raw

    def write(self, table: pa.Table) -> None:
        """Append the rows of a table."""
        for row in table.to_pylist():
            line = json.dumps(_merged(row), ensure_ascii=False, default=str)
            self._file.write(line.encode("utf-8", "backslashreplace") + b"\n")

    def __enter__(self) -> "JsonRows":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._raw.close()


class ParquetRows:
    """Writes Parquet (zstd); the first table decides the columns and their types."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: pq.ParquetWriter | None = None
        self._num_rows = 0

    def write(self, table: pa.Table) -> None:
        """Append the rows of a table.

        Raises:
            InputError: a row has a column or a type that the first ones had not.
        """
        if LINE in table.column_names:
            table = self._expanded(table)
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, table.schema, compression="zstd")
        self._writer.write_table(table.cast(self._writer.schema))
        self._num_rows += table.num_rows

    def _expanded(self, table: pa.Table) -> pa.Table:
        rows = [_merged(row) for row in table.to_pylist()]
        schema = self._writer.schema if self._writer else None
        try:
            expanded = pa.Table.from_pylist(rows, schema=schema) if rows else table.drop_columns([LINE])
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise InputError(
                f"rows from {self._num_rows + 1} on do not fit one Parquet schema ({error}); write JSONL instead"
            ) from error
        unknown = {name for row in rows for name in row} - set(expanded.column_names)
        if unknown:
            raise InputError(
                f"rows from {self._num_rows + 1} on have fields that the first ones had not "
                f"({', '.join(sorted(unknown))}); write JSONL instead"
            )
        return _without_null_types(expanded)

    def __enter__(self) -> "ParquetRows":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()


def _merged(row: dict[str, Any]) -> dict[str, Any]:
    """The row's own JSON with what the step changed or added."""
    if LINE not in row:
        return row
    merged = json.loads(row[LINE])
    for name, value in row.items():
        if name not in _READ_ONLY and (name in merged or value is not None):
            merged[name] = value
    return merged


def _without_null_types(table: pa.Table) -> pa.Table:
    """Columns of nothing but null become strings, so that later rows fit."""
    fields = [field.with_type(pa.string()) if pa.types.is_null(field.type) else field for field in table.schema]
    return table.cast(pa.schema(fields))
