"""HTTP exchanges → a WARC 1.1 file, one gzip member a record: warcinfo, then request, response, metadata of each."""

import base64
import hashlib
import uuid
from collections.abc import Iterable
from pathlib import Path

from fastwarc import GzipWriter, WarcRecord, WarcRecordType

from modelmill.tasks.files import atomic_path
from modelmill.tasks.ingest.fetch import Exchange

_FIELDS = "application/warc-fields"
# Headers that would no longer be true of the stored bytes: the transfer encoding is undone, the length counted anew.
_REPLACED_HEADERS = (b"transfer-encoding", b"content-length", b"connection", b"keep-alive")


def write_warc(path: Path, exchanges: Iterable[Exchange], facts: dict[str, str], found_on: dict[str, str]) -> None:
    """Write one file whole or not at all.

    facts: fields of the warcinfo record (ISO 28500 names such as software, robots, http-header-user-agent).
    found_on: URL → the page that linked to it, for the `via` field of the metadata records.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        writer = GzipWriter(file, compression_level=6)
        _write(writer, WarcRecordType.warcinfo, _FIELDS, fields_block(facts), {"WARC-Filename": path.name})
        for exchange in exchanges:
            _write_exchange(writer, exchange, found_on.get(exchange.url, ""))
        writer.close()


def _write_exchange(writer: GzipWriter, exchange: Exchange, via: str) -> None:
    response_id = _record_id()
    about = {"WARC-Target-URI": exchange.url}
    address = {"WARC-IP-Address": exchange.address} if exchange.address else {}
    together = {"WARC-Concurrent-To": f"<{response_id}>"}
    request_type, response_type = (f"application/http; msgtype={kind}" for kind in ("request", "response"))
    facts = {"fetchTimeMs": str(round(exchange.seconds * 1000))} | ({"via": via} if via else {})
    payload = {"WARC-Payload-Digest": digest(exchange.body)}
    write = [
        (WarcRecordType.request, request_type, exchange.request, about | address | together, _record_id()),
        (WarcRecordType.response, response_type, response_block(exchange), about | address | payload, response_id),
        (WarcRecordType.metadata, _FIELDS, fields_block(facts), about | together, _record_id()),
    ]
    for kind, content_type, block, headers, record_id in write:
        _write(writer, kind, content_type, block, headers, record_id, exchange)


def _write(
    writer: GzipWriter,
    kind: WarcRecordType,
    content_type: str,
    block: bytes,
    headers: dict[str, str],
    record_id: str = "",
    exchange: Exchange | None = None,
) -> None:
    record = WarcRecord()
    record.init_headers(kind, (record_id or _record_id()).removeprefix("urn:").encode())
    if exchange is not None:
        record.record_date = exchange.date
    for name, value in headers.items():
        record.headers[name] = value
    record.headers["Content-Type"] = content_type
    record.set_bytes_content(block)
    record.headers["WARC-Block-Digest"] = digest(block)
    record.write(writer)
    writer.finish()  # ends the gzip member: readers may then begin at any record


def response_block(exchange: Exchange) -> bytes:
    """The answer as HTTP/1.1 bytes that agree with the stored body.

    A replaced Transfer-Encoding stays readable under X-Crawler-, as Common Crawl writes it.
    """
    lines = [f"HTTP/1.1 {exchange.status} {exchange.phrase}".encode("latin-1", errors="replace")]
    for name, value in exchange.headers:
        prefix = b"X-Crawler-" if name.lower() in _REPLACED_HEADERS else b""
        lines.append(prefix + name + b": " + value)
    lines.append(b"Content-Length: %d" % len(exchange.body))
    return b"\r\n".join([*lines, b"", exchange.body])


def fields_block(facts: dict[str, str]) -> bytes:
    """`name: value` lines (application/warc-fields)."""
    return "".join(f"{name}: {value}\r\n" for name, value in facts.items()).encode()


def digest(content: bytes) -> str:
    """SHA-1 in base 32, the form that WARC tools exchange and Common Crawl uses."""
    return "sha1:" + base64.b32encode(hashlib.sha1(content, usedforsecurity=False).digest()).decode()


def _record_id() -> str:
    return f"urn:uuid:{uuid.uuid4()}"
