"""Files of one source → shards of pages and of dropped rows: the function that the stage fans out."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from modelmill.tasks.ingest.archives import Capture, Damage, captures, open_address
from modelmill.tasks.ingest.config import ExtractionConfig
from modelmill.tasks.ingest.decode import RejectedError, decoded_text
from modelmill.tasks.ingest.extract import Extractor, capture_text, plain_page, unusable
from modelmill.tasks.ingest.files import SourceFile
from modelmill.tasks.ingest.reading import Reading
from modelmill.tasks.ingest.remote import local_copy
from modelmill.tasks.ingest.rows import read_dataset, read_jsonl, read_parquet
from modelmill.tasks.ingest.schema import ShardWriter, page_date, row_id
from modelmill.tasks.ingest.sources import (
    AnySource,
    CommonCrawlSource,
    CrawlRules,
    CrawlSource,
    DatasetSource,
    DocumentationSource,
    FileSource,
    FoldersSource,
    HtmlSource,
    JsonlSource,
    ParquetSource,
    RemoteSource,
    TextSource,
    WarcSource,
    WetSource,
)

DOWNLOADS = "downloads"  # of the stage's workspace
Reader = Callable[[Reading, Any, list[SourceFile]], None]


def read_files(
    source: AnySource, files: list[SourceFile], config: ExtractionConfig, folder: Path, prefix: str
) -> dict[str, Any]:
    """Read files of one source into `folder`/`prefix`-*.parquet; counts and names of shards as JSON.

    Raises:
        InputError: a file does not exist.
    """
    writer = ShardWriter(folder, prefix, config.shard_pages)
    with Extractor(config.extractor, config.limits) as extractor:
        _READERS[type(source)](
            Reading(source.name, config, extractor, writer, folder.parent / DOWNLOADS), source, files
        )
    return writer.close()


def _captures(reading: Reading, source: Any, files: list[SourceFile]) -> Iterator[tuple[SourceFile, Capture]]:
    """The captures of archives one after another, remote ones fetched first; damage becomes dropped rows."""
    for file in files:
        with _local(reading, source, file) as path:
            for capture in captures(path, reading.config.limits.page_bytes):
                if isinstance(capture, Damage):
                    _drop_damage(reading, file, capture)
                else:
                    yield file, capture


def _read_archives(reading: Reading, source: Any, files: list[SourceFile]) -> None:
    """A crawl's own archives hold each URL once; in others a page is known by its URL and date."""
    is_crawl = isinstance(source, CrawlRules)
    for file, capture in _captures(reading, source, files):
        identifier = row_id(capture.url) if is_crawl else row_id(capture.url, capture.date)
        if problem := unusable(capture, source.content_types):
            reading.drop(identifier, capture.url, *problem, _place(file, capture))
            continue
        row = {"id": identifier, "url": capture.url, "date": page_date(capture.last_modified, capture.date)}
        reading.add(row, lambda capture=capture: reading.captured(capture), _place(file, capture))


def _place(file: SourceFile, capture: Capture) -> str:
    return f"{file.name} at byte {capture.offset}"


def _drop_damage(reading: Reading, file: SourceFile, damage: Damage) -> None:
    """A record whose page is known is dropped under its URL, other damage under the file's name."""
    detail = f"{file.name}: {damage.detail}"
    reading.drop(row_id(file.name, damage.detail), damage.url or file.name, "damaged_archive", detail)


def _read_wet(reading: Reading, source: WetSource, files: list[SourceFile]) -> None:
    limits = reading.config.limits
    for file, capture in _captures(reading, source, files):
        identifier = row_id(capture.url, capture.date)
        if problem := unusable(capture, ("text/plain",)):
            reading.drop(identifier, capture.url, *problem, _place(file, capture))
            continue
        row = {"id": identifier, "url": capture.url, "date": capture.date}
        page = lambda capture=capture: plain_page(capture_text(capture, limits), limits)  # noqa: E731
        reading.add(row, page, _place(file, capture))


def _read_html(reading: Reading, source: HtmlSource, files: list[SourceFile]) -> None:
    for file in files:
        url = source.base_url + file.name
        row = {"id": row_id(source.name, file.name), "url": url, "date": ""}
        reading.add(row, lambda file=file: reading.extracted(_file_text(reading, source, file)))


def _read_text(reading: Reading, source: TextSource, files: list[SourceFile]) -> None:
    for file in files:
        row = {"id": row_id(source.name, file.name), "url": file.name, "date": ""}
        reading.add(row, lambda file=file: plain_page(_file_text(reading, source, file), reading.config.limits))


def _local(reading: Reading, source: Any, file: SourceFile) -> AbstractContextManager[str]:
    """Path of a file while it is read; a crawl's own archives are here already."""
    if isinstance(source, RemoteSource):
        return local_copy(file.address, reading.downloads, source.download, source.reach)
    return contextlib.nullcontext(file.address)


def _file_text(reading: Reading, source: FileSource, file: SourceFile) -> str:
    limit = reading.config.limits.page_bytes
    copied = local_copy(file.address, reading.downloads, source.download, source.reach, most_bytes=limit + 1)
    with copied as path, open_address(path) as stream:
        body = stream.read(limit + 1)
    if len(body) > limit:
        raise RejectedError("too_large", f"more than {limit} bytes")
    return decoded_text(body, None)


_READERS: dict[type, Reader] = {
    CrawlSource: _read_archives,
    DocumentationSource: _read_archives,
    FoldersSource: _read_archives,
    WarcSource: _read_archives,
    CommonCrawlSource: _read_archives,
    WetSource: _read_wet,
    HtmlSource: _read_html,
    TextSource: _read_text,
    JsonlSource: read_jsonl,
    ParquetSource: read_parquet,
    DatasetSource: read_dataset,
}
