"""WARC, WET and ARC archives, whole or damaged → captures: what was stored of each page, and what could not be read."""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

import fsspec
from fastwarc import ArchiveIterator, WarcRecord, WarcRecordType

from modelmill.tasks.errors import InputError
from modelmill.tasks.ingest.salvage import pieces
from modelmill.tasks.ingest.schema import iso_date

_PAGES = WarcRecordType.response | WarcRecordType.resource | WarcRecordType.conversion
_ARC_MAGIC = b"filedesc://"
_ARC_FIELDS = 5  # version 1: URL, IP address, date, content type, length; version 2 puts five more before the length
_MAX_HEADER_BYTES = 64 * 1024


@dataclass
class Capture:
    """One stored answer. `body` holds at most the limit that the reader was given, plus one byte."""

    url: str
    date: str
    status: int | None
    media_type: str
    charset: str | None
    content_encoding: str
    last_modified: str
    body: bytes = field(repr=False)
    truncated: bool = False


@dataclass(frozen=True)
class Damage:
    """A part of an archive that could not be read."""

    detail: str


def open_address(address: str) -> AbstractContextManager[BinaryIO]:
    """Open a local path, an HTTP(S) or an s3:// URL for reading.

    Raises:
        InputError: there is no such file.
    """
    try:
        opened = fsspec.open(address, "rb")
        assert not isinstance(opened, list)
        return cast("AbstractContextManager[BinaryIO]", opened.open())
    except FileNotFoundError as error:
        raise InputError(
            f"found no file at {address}. Expected a readable path, an http(s) URL or an s3:// URL: correct the "
            "source's `paths`, or restore the file, and run again."
        ) from error


def captures(address: str, limit: int) -> Iterator[Capture | Damage]:
    """The pages of an archive in order.

    What is unreadable is reported as damage; reading goes on behind it where the format allows that (a gzip
    member or a WARC header further on).
    """
    with open_address(address) as stream:
        head = stream.read(512)
    if not head:
        yield Damage("the file is empty")
    elif _is_arc(head):
        yield from _arc_captures(address, limit)
    else:
        yield from _warc_captures(address, limit)


def _warc_captures(address: str, limit: int) -> Iterator[Capture | Damage]:
    """Counts records read before damage, so that the second, slower reading knows where to go on."""
    num_read = 0
    try:
        with open_address(address) as stream:
            for record in ArchiveIterator(stream, parse_http=False):
                capture = _capture(record, limit) if record.record_type & _PAGES else None
                num_read += 1
                if capture is not None:
                    yield capture
    except (OSError, EOFError) as error:
        yield Damage(f"after {num_read} records: {error}")
        yield from _salvaged_captures(address, limit, num_read)
        return
    if num_read == 0:
        yield Damage("the file holds no WARC record")


def _salvaged_captures(address: str, limit: int, num_read: int) -> Iterator[Capture | Damage]:
    index = 0
    with open_address(address) as stream:
        for piece in pieces(stream):
            try:
                for record in ArchiveIterator(io.BytesIO(piece), parse_http=False):
                    capture = _capture(record, limit) if record.record_type & _PAGES else None
                    index += 1
                    if capture is not None and index > num_read:
                        yield capture
            except (OSError, EOFError):
                continue  # the damage that was reported before


def _capture(record: WarcRecord, limit: int) -> Capture | None:
    is_http = "application/http" in (record.headers.get("Content-Type") or "")
    url = (record.headers.get("WARC-Target-URI") or "").strip("<> ")
    # A record whose own headers are cut off has no length.
    truncated = record.headers.get("WARC-Truncated") is not None or record.headers.get("Content-Length") is None
    date = iso_date(record.record_date) if record.record_date else ""
    if not is_http:
        media_type, charset = _media_type(record.headers.get("Content-Type") or "")
        length, body = record.content_length, record.reader.read(limit + 1)
        return Capture(url, date, None, media_type, charset, "", "", body, truncated or _is_short(body, length, limit))
    length = record.content_length
    block = record.reader.read(min(length, limit + 1 + _MAX_HEADER_BYTES))
    capture = http_capture(url, date, block, limit)
    capture.truncated = truncated or len(block) < min(length, limit + 1)
    return capture


def _is_short(body: bytes, length: int, limit: int) -> bool:
    return len(body) < min(length, limit + 1)


def http_capture(url: str, date: str, block: bytes, limit: int) -> Capture:
    """Split stored HTTP bytes into headers and body; lines may end in CRLF or LF, chunks are joined."""
    head, body = _split_head(block)
    status_line, *lines = head.decode("latin-1").replace("\r\n", "\n").split("\n")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            headers.setdefault(name.strip().lower(), value.strip())
    if "chunked" in headers.get("transfer-encoding", "").lower():
        body = _joined_chunks(body)
    media_type, charset = _media_type(headers.get("content-type", ""))
    parts = status_line.split(" ", 2)
    status = int(parts[1]) if len(parts) > 1 and parts[1].isdecimal() else None
    encoding, last_modified = headers.get("content-encoding", ""), headers.get("last-modified", "")
    return Capture(url, date, status, media_type, charset, encoding, last_modified, body[: limit + 1])


def _split_head(block: bytes) -> tuple[bytes, bytes]:
    ends = [(at, len(mark)) for mark in (b"\r\n\r\n", b"\n\n") if (at := block.find(mark, 0, _MAX_HEADER_BYTES)) >= 0]
    if not ends:
        return block[:_MAX_HEADER_BYTES], b""
    at, size = min(ends)
    return block[:at], block[at + size :]


def _joined_chunks(body: bytes) -> bytes:
    """Undo chunked transfer encoding; bytes that are not in chunks (archivers often undo it) stay as they are."""
    parts, position = [], 0
    while True:
        line_end = body.find(b"\r\n", position, position + 64)
        size_text = body[position:line_end].partition(b";")[0].strip() if line_end >= 0 else b""
        try:
            size = int(size_text, 16)
        except ValueError:
            return b"".join(parts) if parts else body
        if size == 0:
            return b"".join(parts)
        parts.append(body[line_end + 2 : line_end + 2 + size])
        position = line_end + 2 + size + 2


def _media_type(content_type: str) -> tuple[str, str | None]:
    media_type, *parameters = content_type.split(";")
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return media_type.strip().lower(), value.strip().strip("\"'") or None
    return media_type.strip().lower(), None


def _is_arc(head: bytes) -> bool:
    if head.startswith(b"\x1f\x8b"):
        try:
            head = zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(head, len(_ARC_MAGIC))
        except zlib.error:
            return False
    return head.startswith(_ARC_MAGIC)


def _arc_captures(address: str, limit: int) -> Iterator[Capture | Damage]:
    """ARC, the format before WARC: a line with URL, address, date, type and length, then that many bytes."""
    num_read = 0
    try:
        with open_address(address) as raw:
            is_compressed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            stream: Any = gzip.GzipFile(fileobj=raw) if is_compressed else raw
            while line := stream.readline(_MAX_HEADER_BYTES):
                if not line.strip():
                    continue
                fields = line.decode("latin-1").split()
                if len(fields) < _ARC_FIELDS or not fields[-1].isdecimal():
                    raise OSError(f"expected an ARC record header, found {line[:60]!r}")
                capture = _arc_capture(stream, fields, limit)
                num_read += 1
                if not line.startswith(_ARC_MAGIC) and fields[0].startswith(("http://", "https://")):
                    yield capture
    except (OSError, EOFError, zlib.error) as error:
        yield Damage(f"after {num_read} records: {error}")


def _arc_capture(stream: BinaryIO, fields: list[str], limit: int) -> Capture:
    length = int(fields[-1])
    kept = min(length, limit + 1 + _MAX_HEADER_BYTES)
    block = stream.read(kept)
    left = length - kept
    while left > 0 and (skipped := stream.read(min(left, 1 << 20))):
        left -= len(skipped)
    stamp = fields[2].ljust(14, "0")
    date = f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:8]}T{stamp[8:10]}:{stamp[10:12]}:{stamp[12:14]}Z"
    capture = http_capture(fields[0], date, block, limit)
    capture.truncated = len(block) < kept
    return capture
