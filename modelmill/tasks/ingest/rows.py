# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
"""Tables of a source (JSON lines, Parquet, Hugging Face data sets) → pages and dropped rows."""

import contextlib
import itertools
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from modelmill.tasks.errors import InputError
from modelmill.tasks.ingest.archives import open_address
from modelmill.tasks.ingest.decode import RejectedError, decoded_text
from modelmill.tasks.ingest.extract import ExtractedPage, plain_page
from modelmill.tasks.ingest.files import SourceFile
from modelmill.tasks.ingest.reading import Reading
from modelmill.tasks.ingest.remote import local_copy
from modelmill.tasks.ingest.schema import PAGE_SCHEMA, row_id
from modelmill.tasks.ingest.sources import Columns, DatasetSource, JsonlSource, ParquetSource
from modelmill.tasks.placeholders import redacted
from modelmill.tasks.text.bounded_lines import (
    Line,
    TooManyValuesError,
    bounded_lines,
    json_value,
    plain_stream,
    without_surrogates,
)
from modelmill.tasks.text.parquet_batches import bounded_tables

# A character takes up to 6 bytes as an escape of JSON, and other columns have room too.
_LINE_BYTES_PER_PAGE_BYTE = 8
_Row = dict[str, Any] | RejectedError
_METADATA = ("id", "url", "date", "title")


def read_jsonl(reading: Reading, source: JsonlSource, files: list[SourceFile]) -> None:
    """JSON lines, one page each."""
    for file in files:
        copied = local_copy(file.address, reading.downloads, source.download, source.reach)
        with copied as path, open_address(path) as raw:
            _add_rows(reading, source.columns, file.name, _json_rows(reading, file.name, plain_stream(raw)))


def _json_rows(reading: Reading, name: str, lines: IO[bytes]) -> Iterator[_Row]:
    """Parsed lines. A damaged gzip file ends where it is damaged."""
    limit = reading.config.limits.page_bytes * _LINE_BYTES_PER_PAGE_BYTE
    try:
        for line in bounded_lines(lines, limit):
            yield _json_row(line, limit)
    except (OSError, EOFError, zlib.error) as error:
        reading.drop(row_id(name, "damage"), name, "damaged_file", str(error))


def _json_row(line: Line, limit: int) -> _Row:
    if line.content is None:
        return RejectedError("too_large", f"line {line.number} has more than {limit:,} bytes")
    try:
        row = json_value(line.content)
    except TooManyValuesError as error:
        return RejectedError("too_large", f"line {line.number} has {error}")
    except ValueError:
        row = None
    if not isinstance(row, dict):
        return RejectedError("invalid_row", f"line {line.number} is no JSON object")
    return row


def read_parquet(reading: Reading, source: ParquetSource, files: list[SourceFile]) -> None:
    """Parquet files, table by table; only the columns that are needed are read."""
    for file in files:
        copied = local_copy(file.address, reading.downloads, source.download, source.reach)
        with copied as path, open_address(path) as stream:
            try:
                for first_row, table in _parquet_tables(stream, source.columns, reading.config.shard_pages):
                    _add_table(reading, source.columns, file.name, first_row, table)
            except (pa.ArrowException, OSError) as error:
                reading.drop(row_id(file.name, "damage"), file.name, "damaged_file", str(error))


def _parquet_tables(stream: IO[bytes], columns: Columns, rows: int) -> Iterator[tuple[int, pa.Table]]:
    wanted = {columns.text, columns.html, columns.id, columns.url, columns.date, columns.title}
    present = [name for name in pq.ParquetFile(stream).schema_arrow.names if name in wanted]
    stream.seek(0)
    return bounded_tables(stream, rows, present)


def _add_table(reading: Reading, columns: Columns, file: str, first_row: int, table: pa.Table) -> None:
    """Text columns go straight through, as Arrow; rows that have no usable text, and all HTML, one by one."""
    # A row's id counts from the beginning of its shard's worth of rows.
    name, start = f"{file}#{first_row // reading.config.shard_pages}", first_row % reading.config.shard_pages
    if columns.html or columns.text not in table.column_names:
        _add_rows(reading, columns, name, iter(table.to_pylist()), start)
        return
    text = table[columns.text].cast(pa.string())
    lengths = pc.fill_null(pc.utf8_length(pc.utf8_trim_whitespace(text)), 0)
    usable = pc.and_(pc.greater(lengths, 0), pc.less_equal(lengths, reading.config.limits.text_characters))
    nulls = pa.chunked_array([pa.nulls(len(text), pa.string())])
    rows = {"text": text}
    for column in _METADATA:
        given = getattr(columns, column)
        rows[column] = table[given].cast(pa.string()) if given in table.column_names else nulls
    made = pa.array([row_id(reading.source, name, str(start + number)) for number in range(len(text))], pa.string())
    rows["id"] = pc.coalesce(rows["id"], pa.chunked_array([made]))
    rows |= {column: pc.fill_null(rows[column], "") for column in ("url", "date", "title")}
    rows["page_type"] = pa.chunked_array([pa.array([""] * len(text), pa.string())])
    rows["source"] = pa.chunked_array([pa.array([reading.source] * len(text), pa.string())])
    whole = pa.table(rows).select(PAGE_SCHEMA.names)
    reading.writer.keep_table(whole.filter(usable))
    for row in whole.filter(pc.invert(usable)).to_pylist():
        reason = "too_large" if row["text"] and row["text"].strip() else "empty_text"
        reading.drop(row["id"], row["url"], reason, "")


def _add_rows(reading: Reading, columns: Columns, name: str, rows: Iterator[_Row], start: int = 0) -> None:
    for number, row in enumerate(rows, start):
        made = row_id(reading.source, name, str(number))
        if isinstance(row, RejectedError):
            reading.drop(made, name, row.reason, row.detail)
            continue
        given = {column: _string(row.get(getattr(columns, column))) for column in _METADATA}
        content = row.get(columns.html or columns.text)
        reading.add(
            given | {"id": given["id"] or made},
            lambda content=content: _row_page(reading, content, bool(columns.html)),
        )


def _row_page(reading: Reading, content: Any, is_html: bool) -> ExtractedPage:
    limits = reading.config.limits
    if isinstance(content, bytes):
        content = decoded_text(content, None)
    if not isinstance(content, str):
        raise RejectedError("empty_text", f"found {type(content).__name__} where text was expected")
    if len(content) > limits.page_bytes:
        raise RejectedError("too_large", f"{len(content)} characters")
    content = without_surrogates(content)
    return reading.extracted(content) if is_html else plain_page(content, limits)


def _string(value: Any) -> str:
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return "" if value is None else without_surrogates(str(value))


def read_dataset(reading: Reading, source: DatasetSource, files: list[SourceFile]) -> None:
    """A Hugging Face data set, streamed; files on HTTP(S) servers are fetched before, by our own rules.

    Raises:
        InputError: there is no such data set, or its description leads to files that are not its own.
    """
    with contextlib.ExitStack() as stack:
        copies = [
            stack.enter_context(local_copy(file.address, reading.downloads, source.download, source.reach))
            for file in files
        ]
        rows = itertools.islice(iter(_opened_dataset(source, copies)), source.max_rows)
        _add_rows(reading, source.columns, source.path, rows)


def _opened_dataset(source: DatasetSource, copies: list[str]) -> Any:
    """The rows of a data set. What its author wrote may name any file of this machine, or any address: refused."""
    import datasets

    files_argument: dict[str, Any] = {"data_files": copies} if copies else {}
    try:
        builder = datasets.load_dataset_builder(source.path, source.subset, revision=source.revision, **files_argument)
    except (OSError, ValueError) as error:
        raise InputError(
            f"source {source.name!r}: the data set {source.path} cannot be opened ({redacted(str(error))}). Expected a "
            "data set of the hub, a folder, or a builder with `data_files`: correct the source, and run again."
        ) from error
    is_local = Path(source.path).is_dir()
    for split, names in (builder.config.data_files or {}).items():
        for name in map(str, names):
            is_own = name in copies or name.startswith(f"hf://datasets/{source.path}@")
            if not is_own and not (is_local and Path(name).resolve().is_relative_to(Path(source.path).resolve())):
                raise InputError(
                    f"source {source.name!r}: the data set {source.path} names {redacted(name)} as a file of its split "
                    f"{split}, which is not part of it. Take another data set, or give the file as `data_files`."
                )
    return builder.as_streaming_dataset(split=source.split)
