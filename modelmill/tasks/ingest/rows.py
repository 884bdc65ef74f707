# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
"""Tables of a source (JSON lines, Parquet, Hugging Face data sets) → pages and dropped rows."""

import gzip
import itertools
import json
from collections.abc import Iterable, Iterator
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from modelmill.tasks.ingest.archives import open_address
from modelmill.tasks.ingest.config import Columns, DatasetSource, JsonlSource, ParquetSource
from modelmill.tasks.ingest.decode import RejectedError, decoded_text
from modelmill.tasks.ingest.extract import ExtractedPage, plain_page
from modelmill.tasks.ingest.files import SourceFile
from modelmill.tasks.ingest.reading import Reading
from modelmill.tasks.ingest.remote import local_copy
from modelmill.tasks.ingest.schema import PAGE_SCHEMA, row_id

_METADATA = ("id", "url", "date", "title")


def read_jsonl(reading: Reading, source: JsonlSource, files: list[SourceFile]) -> None:
    """JSON lines, one page each."""
    for file in files:
        with local_copy(file.address, reading.downloads, source.download) as path, open_address(path) as raw:
            is_compressed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            lines = cast("IO[bytes]", gzip.GzipFile(fileobj=raw) if is_compressed else raw)
            _add_rows(reading, source.columns, file.name, _json_rows(reading, file.name, lines))


def _json_rows(reading: Reading, name: str, lines: Iterable[bytes]) -> Iterator[dict[str, Any] | None]:
    """Parsed lines; None for one that is no JSON object. A damaged gzip file ends where it is damaged."""
    try:
        for line in lines:
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            yield row if isinstance(row, dict) else None
    except (OSError, EOFError) as error:
        reading.drop(row_id(name, "damage"), name, "damaged_file", str(error))


def read_parquet(reading: Reading, source: ParquetSource, files: list[SourceFile]) -> None:
    """Parquet files, batch by batch; only the columns that are needed are read."""
    for file in files:
        with local_copy(file.address, reading.downloads, source.download) as path, open_address(path) as stream:
            try:
                for position, table in _parquet_tables(stream, source.columns, reading.config.shard_pages):
                    _add_table(reading, source.columns, f"{file.name}#{position}", table)
            except (pa.ArrowInvalid, OSError) as error:
                reading.drop(row_id(file.name, "damage"), file.name, "damaged_file", str(error))


def _parquet_tables(stream: IO[bytes], columns: Columns, rows: int) -> Iterator[tuple[int, pa.Table]]:
    parquet = pq.ParquetFile(stream)
    wanted = {columns.text, columns.html, columns.id, columns.url, columns.date, columns.title}
    present = [name for name in parquet.schema_arrow.names if name in wanted]
    for number, batch in enumerate(parquet.iter_batches(batch_size=rows, columns=present)):
        yield number, pa.Table.from_batches([batch])


def _add_table(reading: Reading, columns: Columns, name: str, table: pa.Table) -> None:
    """Text columns go straight through, as Arrow; rows that have no usable text, and all HTML, one by one."""
    if columns.html or columns.text not in table.column_names:
        _add_rows(reading, columns, name, iter(table.to_pylist()))
        return
    text = table[columns.text].cast(pa.string())
    lengths = pc.fill_null(pc.utf8_length(pc.utf8_trim_whitespace(text)), 0)
    usable = pc.and_(pc.greater(lengths, 0), pc.less_equal(lengths, reading.config.limits.text_characters))
    nulls = pa.chunked_array([pa.nulls(len(text), pa.string())])
    rows = {"text": text}
    for column in _METADATA:
        given = getattr(columns, column)
        rows[column] = table[given].cast(pa.string()) if given in table.column_names else nulls
    made = pa.array([row_id(reading.source, name, str(number)) for number in range(len(text))], pa.string())
    rows["id"] = pc.coalesce(rows["id"], pa.chunked_array([made]))
    rows |= {column: pc.fill_null(rows[column], "") for column in ("url", "date", "title")}
    rows["page_type"] = pa.chunked_array([pa.array([""] * len(text), pa.string())])
    rows["source"] = pa.chunked_array([pa.array([reading.source] * len(text), pa.string())])
    whole = pa.table(rows).select(PAGE_SCHEMA.names)
    reading.writer.keep_table(whole.filter(usable))
    for row in whole.filter(pc.invert(usable)).to_pylist():
        reason = "too_large" if row["text"] and row["text"].strip() else "empty_text"
        reading.drop(row["id"], row["url"], reason, "")


def _add_rows(reading: Reading, columns: Columns, name: str, rows: Iterator[dict[str, Any] | None]) -> None:
    for number, row in enumerate(rows):
        made = row_id(reading.source, name, str(number))
        if row is None:
            reading.drop(made, name, "invalid_row", f"row {number} is no JSON object")
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
    return reading.extracted(content) if is_html else plain_page(content, limits)


def _string(value: Any) -> str:
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return "" if value is None else str(value)


def read_dataset(reading: Reading, source: DatasetSource, files: list[SourceFile]) -> None:
    """A Hugging Face data set, streamed."""
    import datasets

    files_argument: dict[str, Any] = {"data_files": [file.address for file in files]} if files else {}
    dataset: Any = datasets.load_dataset(
        source.path, source.subset, split=source.split, revision=source.revision, streaming=True, **files_argument
    )
    rows = itertools.islice(iter(dataset), source.max_rows)
    _add_rows(reading, source.columns, source.path, cast("Iterator[dict[str, Any] | None]", rows))
