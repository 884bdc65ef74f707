"""Rows of HTML, or the captures of an archive → rows of main text, and dropped rows with their reasons."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import TracebackType

import pyarrow as pa

from modelmill.tasks.ingest import extractor as extractor_module
from modelmill.tasks.ingest.archives import Capture, Damage, captures
from modelmill.tasks.ingest.companion import Companion, CompanionError
from modelmill.tasks.ingest.config import ExtractionConfig, Limits
from modelmill.tasks.ingest.decode import RejectedError, decoded_content, decoded_text
from modelmill.tasks.ingest.schema import row_id
from modelmill.tasks.placeholders import without_secrets

KEPT_SCHEMA = pa.schema([("id", pa.string()), ("url", pa.string()), ("text", pa.string())])
REJECTED_SCHEMA = pa.schema([("id", pa.string()), ("url", pa.string()), ("reason", pa.string())])
HTML_SCHEMA = pa.schema([("id", pa.string()), ("url", pa.string()), ("html", pa.string())])
HTML_TYPES = ("text/html", "application/xhtml+xml")
_LINEAR = {"modelmill"}  # extractors whose parser takes no longer on nested tags than on others
_BATCH_PAGES = 200  # pages of HTML in memory at once when an archive is read into rows

_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)")
# Elements without content, and those that a parser closes itself when the next one begins: neither nests.
_EMPTY_TAGS = {"area", "base", "br", "col", "embed", "frame", "hr", "img", "input", "link", "meta", "wbr"}
_MEDIA_TAGS = {"param", "source", "track"}
_ROW_TAGS = {"td", "th", "tr", "thead", "tbody", "tfoot", "caption", "colgroup", "option", "optgroup"}
_FLAT_TAGS = _EMPTY_TAGS | _MEDIA_TAGS | _ROW_TAGS | {"html", "head", "body", "p", "li", "dt", "dd", "rp", "rt"}


@dataclass(frozen=True)
class ExtractedPage:
    """Title (may be empty), main text (never empty) and type of one page (empty where the extractor knows none)."""

    title: str
    text: str
    page_type: str = ""


class Extractor:
    """Main-text extraction in a child process, within the limits of the recipe; use it as a context manager."""

    def __init__(self, name: str, limits: Limits) -> None:
        self._name, self._limits = name, limits
        arguments = (name, str(limits.extract_seconds), str(limits.extract_megabytes))
        self._companion = Companion(extractor_module.__name__, arguments, without_secrets(os.environ))

    def __enter__(self) -> "Extractor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._companion.close()

    def page(self, html: str) -> ExtractedPage:
        """Title and text of one page.

        Raises:
            RejectedError: too_large, too_deep, too_slow, extractor_failed or empty_text.
        """
        if self._name not in _LINEAR and nesting(html, self._limits.nesting) > self._limits.nesting:
            raise RejectedError("too_deep", f"tags nest deeper than {self._limits.nesting}")
        try:
            answer = self._companion.ask(html.encode("utf-8", errors="replace"), self._limits.extract_seconds)
        except CompanionError as error:
            raise RejectedError("too_slow" if error.timed_out else "extractor_failed", str(error)) from error
        found = ExtractedPage(**json.loads(answer))
        return replace(found, text=checked_text(found.text, self._limits))

    def capture(self, capture: Capture) -> ExtractedPage:
        """Title and text of a page in an archive.

        Raises:
            RejectedError: as `page`, and undecodable.
        """
        return self.page(capture_text(capture, self._limits))


def capture_text(capture: Capture, limits: Limits) -> str:
    """The decoded body of a capture.

    Raises:
        RejectedError: too_large or undecodable.
    """
    return decoded_text(decoded_content(capture.body, capture.content_encoding, limits.page_bytes), capture.charset)


def checked_text(text: str, limits: Limits) -> str:
    """The text, if there is any and not too much.

    Raises:
        RejectedError: empty_text or too_large.
    """
    if not text.strip():
        raise RejectedError("empty_text")
    if len(text) > limits.text_characters:
        raise RejectedError("too_large", f"{len(text)} characters of text, the limit is {limits.text_characters}")
    return text


def plain_page(text: str, limits: Limits) -> ExtractedPage:
    """A page that came as text.

    Raises:
        RejectedError: empty_text or too_large.
    """
    return ExtractedPage("", checked_text(text, limits))


def nesting(html: str, limit: int) -> int:
    """Depth of nested tags, counted without a parser (linear in the length); stops a little above `limit`."""
    if html.count("<") <= limit:
        return 0
    depth = deepest = 0
    for closing, name in _TAG.findall(html):
        if name.lower() in _FLAT_TAGS:
            continue
        depth = max(depth - 1, 0) if closing else depth + 1
        deepest = max(deepest, depth)
        if deepest > limit:
            break
    return deepest


def unusable(capture: Capture, content_types: tuple[str, ...]) -> tuple[str, str] | None:
    """Reason and detail when a capture is no complete page of the wanted types, else None."""
    if capture.truncated:
        return "truncated", ""
    if capture.status not in (None, 200):
        return "http_status", str(capture.status)
    return None if capture.media_type in content_types else ("content_type", capture.media_type or "none given")


def extract_rows(table: pa.Table, config: ExtractionConfig) -> tuple[pa.Table, pa.Table]:
    """Main text of rows {id, url, html}; `html` may be text or bytes, `id` and `url` may be missing.

    Returns:
        kept rows {id, url, text} and dropped rows {id, url, reason}, each in the order of the input.
    """
    kept: list[tuple[str, str, str]] = []
    dropped: list[tuple[str, str, str]] = []
    with Extractor(config.extractor, config.limits) as extractor:
        for identifier, url, html in _html_rows(table):
            try:
                kept.append((identifier, url, _row_text(html, extractor, config.limits)))
            except RejectedError as error:
                dropped.append((identifier, url, error.reason))
    return _table(kept, KEPT_SCHEMA), _table(dropped, REJECTED_SCHEMA)


def archive_rows(
    address: str, config: ExtractionConfig, content_types: tuple[str, ...] = HTML_TYPES
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """The pages of a WARC or ARC file as batches of rows {id, url, html} for `extract_rows`, with the rows that were
    refused before extraction, {id, url, reason}.

    Raises:
        InputError: there is no such file.
    """
    rows: list[tuple[str, str, str]] = []
    dropped: list[tuple[str, str, str]] = []
    for capture in captures(address, config.limits.page_bytes):
        if isinstance(capture, Damage):
            dropped.append((row_id(address, capture.detail), capture.url or address, "damaged_archive"))
            continue
        identifier = row_id(capture.url, capture.date)
        try:
            if problem := unusable(capture, content_types):
                raise RejectedError(*problem)
            rows.append((identifier, capture.url, capture_text(capture, config.limits)))
        except RejectedError as error:
            dropped.append((identifier, capture.url, error.reason))
        if len(rows) >= _BATCH_PAGES:
            yield _table(rows, HTML_SCHEMA), _table(dropped, REJECTED_SCHEMA)
            rows, dropped = [], []
    yield _table(rows, HTML_SCHEMA), _table(dropped, REJECTED_SCHEMA)


def _html_rows(table: pa.Table) -> Iterator[tuple[str, str, str | bytes | None]]:
    missing = [None] * table.num_rows
    columns = [table[name].to_pylist() if name in table.column_names else missing for name in ("id", "url", "html")]
    for number, (identifier, url, html) in enumerate(zip(*columns, strict=True)):
        address = str(url) if url is not None else ""
        yield (str(identifier) if identifier is not None else row_id(address or str(number))), address, html


def _row_text(html: str | bytes | None, extractor: Extractor, limits: Limits) -> str:
    if isinstance(html, bytes):
        html = decoded_text(decoded_content(html, "", limits.page_bytes), None)
    elif html is not None and len(html.encode("utf-8", errors="replace")) > limits.page_bytes:
        raise RejectedError("too_large")
    return extractor.page(html or "").text


def _table(rows: list[tuple[str, str, str]], schema: pa.Schema) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [[], [], []]
    return pa.table(dict(zip(schema.names, columns, strict=True)), schema=schema)
