"""WARC, WET and ARC archives, whole or damaged → captures: what was stored of each page, and what could not be read.

fastwarc reads as far as it can. It says nothing of a file that is cut off, nor of a length that swallows what follows,
so each capture waits until the next record has begun where it should; from the last one before damage or the end, the
slower reading of `salvage` goes on, which tells what is whole.
"""

import io
import itertools
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

import fsspec
from fastwarc import ArchiveIterator, WarcRecord, WarcRecordType

from modelmill.tasks.errors import InputError
from modelmill.tasks.ingest.files import address_problem, is_http, is_remote
from modelmill.tasks.ingest.framing import ARC, MAX_HEADER, WARC, Gap, Piece
from modelmill.tasks.ingest.http_message import http_message, media_type
from modelmill.tasks.ingest.salvage import GZIP_MAGIC, panics_as_errors, readable_start, salvaged
from modelmill.tasks.ingest.schema import iso_date
from modelmill.tasks.placeholders import redacted

_PAGES = WarcRecordType.response | WarcRecordType.resource | WarcRecordType.conversion
_SNIFFED_BYTES = 32 << 10
_LENGTH = re.compile(rb"(?i)(\ncontent-length:)[^\n]*?(\r?\n)")
_HTML_START = re.compile(
    rb"(?i)\s*(?:<\?xml[^>]{0,200}>\s*)?(?:<!--.{0,500}?-->\s*)?<(?:!doctype html|html)[\s>]", re.DOTALL
)


@dataclass
class Capture:
    """One stored answer. `body` holds at most the limit that the reader was given, plus one byte.

    `offset` is where its record begins in the file, or the compressed member that the record begins in.
    """

    url: str
    date: str
    status: int | None
    media_type: str
    charset: str | None
    content_encoding: str
    last_modified: str
    body: bytes = field(repr=False)
    truncated: bool = False
    offset: int = 0


@dataclass(frozen=True)
class Damage:
    """A record, or a stretch between two, that could not be read; `url` where its header was still readable."""

    detail: str
    url: str = ""


def open_address(address: str) -> AbstractContextManager[BinaryIO]:
    """Open a local path or an object of an object store for reading; files on HTTP(S) servers are fetched before.

    Raises:
        InputError: there is no such file, it cannot be read, or it is none of these.
    """
    if is_remote(address) and (is_http(address) or address_problem(address)):
        raise InputError(f"{redacted(address)}: expected a local path or an s3:// URL here")
    try:
        if not is_remote(address):
            return Path(address).open("rb")
        opened = fsspec.open(address, "rb")
        assert not isinstance(opened, list)
        return cast("AbstractContextManager[BinaryIO]", opened.open())
    except FileNotFoundError as error:
        raise InputError(
            f"found no file at {address}. Expected a readable path, an http(s) URL or an s3:// URL: correct the "
            "source's `paths`, or restore the file, and run again."
        ) from error
    except OSError as error:
        raise InputError(
            f"{address} cannot be read ({error.strerror or error}). Correct the path or its rights."
        ) from error


def captures(address: str, limit: int) -> Iterator[Capture | Damage]:
    """The pages of an archive in order, and every stretch that holds no readable record, once.

    Plain, gzip, zstd (with or without a dictionary in front) and LZ4 files are told apart by their first bytes.
    """
    with open_address(address) as stream:
        head = stream.read(_SNIFFED_BYTES)
        stream.seek(0)
        if not head:
            yield Damage("the file is empty")
        elif _is_arc(head):
            yield from _salvaged_captures(salvaged(stream, 0, ARC), limit, 0)
        else:
            yield from _warc_captures(stream, limit)


@dataclass
class _Progress:
    """How far fastwarc came: records given, and the last one of a known id with its offset."""

    num_given: int = 0
    index: int = 0
    offset: int = 0
    record_id: str = ""


def _warc_captures(stream: BinaryIO, limit: int) -> Iterator[Capture | Damage]:
    progress = _Progress()
    held: Capture | None = None
    try:
        for index, record in enumerate(_records(stream)):
            if held is not None:
                yield held
            held, progress.num_given = None, index
            if record.record_id:
                progress.index, progress.offset, progress.record_id = index, record.stream_pos, record.record_id
            if record.record_type & _PAGES:
                held = _capture(record, limit)
                held.offset = record.stream_pos
    except (OSError, EOFError):
        pass  # told by the reading that goes on from the record that was held
    items = salvaged(stream, progress.offset, WARC)
    first = next(items, None)
    num_done = progress.num_given - progress.index
    is_found = isinstance(first, Piece) and progress.record_id.encode() in first.header
    is_damaged = isinstance(first, Gap) and held is not None and (held.offset, held.url) == (first.offset, first.url)
    if is_damaged and held is not None and len(held.body) > limit:
        yield held  # too large for either reading, so not worth more than its beginning
        progress.num_given += 1
    elif first is not None and (is_found or is_damaged):
        items = itertools.chain([first], items)
    else:  # several records a member, so that this one has no offset of its own
        items, num_done = salvaged(stream, 0, WARC), progress.num_given
    yield from _salvaged_captures(_without(items, num_done), limit, progress.num_given)


def _records(stream: BinaryIO) -> Iterator[WarcRecord]:
    with panics_as_errors():
        yield from ArchiveIterator(stream, parse_http=False)


def _without(items: Iterator[Piece | Gap], num_done: int) -> Iterator[Piece | Gap]:
    """What was not given before, when the reading had to begin further in front."""
    for item in items:
        if num_done > 0 and (isinstance(item, Piece) or item.url):
            num_done -= 1
        else:
            yield item


def _salvaged_captures(items: Iterator[Piece | Gap], limit: int, num_met: int) -> Iterator[Capture | Damage]:
    """`num_met` records and gaps went before; it makes the details of damage distinct."""
    for item in items:
        place = f"after {num_met} records, at byte {item.offset}"
        num_met += 1
        if isinstance(item, Gap):
            yield Damage(f"{place}: {item.reason}", item.url)
            continue
        try:
            capture = _piece_capture(item, limit) if item.header.startswith(b"WARC/") else _arc_capture(item, limit)
        except (OSError, ValueError) as error:
            yield Damage(f"{place}: {error}", item.url)
            continue
        if capture is not None:
            yield capture
    if num_met == 0:
        yield Damage("the file holds no WARC record")


def _piece_capture(piece: Piece, limit: int) -> Capture | None:
    length = b"%d" % len(piece.block)
    header = _LENGTH.sub(lambda match: match[1] + b" " + length + match[2], piece.header)
    for record in _records(io.BytesIO(header + piece.block + b"\r\n\r\n")):
        if not record.record_type & _PAGES:
            return None
        capture = _capture(record, limit)
        capture.offset = piece.offset
        return capture
    raise OSError("no WARC record")


def _capture(record: WarcRecord, limit: int) -> Capture:
    content_type = record.headers.get("Content-Type") or ""
    url = (record.headers.get("WARC-Target-URI") or "").strip("<> ")
    truncated = record.headers.get("WARC-Truncated") is not None
    date = iso_date(record.record_date) if record.record_date else ""
    length = record.content_length
    if "application/http" not in content_type:
        body = record.reader.read(limit + 1)
        return Capture(url, date, None, *media_type(content_type), "", "", body, truncated)
    block = record.reader.read(min(length, limit + 1 + MAX_HEADER))
    identified = record.headers.get("WARC-Identified-Payload-Type") or ""
    capture = http_capture(url, date, block, limit, identified, is_whole=len(block) == length)
    capture.truncated = capture.truncated or truncated
    return capture


def http_capture(url: str, date: str, block: bytes, limit: int, identified: str = "", is_whole: bool = True) -> Capture:
    """A capture of stored HTTP bytes; a page that names no type has the one that the archiver identified, or is HTML
    if it begins like that."""
    message = http_message(block)
    kind, charset = media_type(message.headers.get("content-type", "") or identified)
    if not kind and _HTML_START.match(message.body[:1024]):
        kind = "text/html"
    encoding, modified = message.headers.get("content-encoding", ""), message.headers.get("last-modified", "")
    truncated = message.truncated and is_whole
    return Capture(url, date, message.status, kind, charset, encoding, modified, message.body[: limit + 1], truncated)


def _is_arc(head: bytes) -> bool:
    """Whether the first header that is readable in the first bytes of a file is one of an ARC file."""
    members = (readable_start(head[found.start() :]) for found in re.finditer(re.escape(GZIP_MAGIC), head))
    for text in map(bytearray, itertools.chain([head], members)):
        arc, warc = ARC.next_start(text, 0), WARC.next_start(text, 0)
        if arc is not None or warc is not None:
            return arc is not None and (warc is None or arc < warc)
    return False


def _arc_capture(piece: Piece, limit: int) -> Capture | None:
    """A page of an ARC file, the format before WARC; None for what is no page (version block, name look-ups)."""
    if not piece.url.startswith(("http://", "https://")):
        return None
    fields = piece.header.decode("latin-1").split(" ")
    stamp = fields[2].ljust(14, "0")
    date = f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:8]}T{stamp[8:10]}:{stamp[10:12]}:{stamp[12:14]}Z"
    capture = http_capture(piece.url, date, piece.block, limit, fields[3])
    capture.offset = piece.offset
    return capture
