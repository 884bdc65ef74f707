"""Stored HTTP bytes of an archive → status, headers, and the body with its transfer encoding undone."""

from dataclasses import dataclass, field

from modelmill.tasks.ingest.framing import MAX_HEADER


@dataclass
class HttpMessage:
    """An answer as it was stored; `body` is still content-encoded, `truncated` where a chunk of it is missing."""

    status: int | None
    headers: dict[str, str]
    body: bytes = field(repr=False)
    truncated: bool = False


def http_message(block: bytes) -> HttpMessage:
    """Split stored HTTP bytes into headers and body; lines may end in CRLF or LF, chunks are joined.

    A Content-Length that differs from what is stored is not believed: archivers store decoded bodies under the old one.
    Bytes without a status line are a body, as in HTTP/0.9.
    """
    if block[:5].upper() != b"HTTP/":
        return HttpMessage(None, {}, block)
    head, body = _split_head(block)
    status_line, *lines = head.decode("latin-1").replace("\r\n", "\n").split("\n")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            headers.setdefault(name.strip().lower(), value.strip())
    parts = status_line.split(" ", 2)
    status = int(parts[1]) if len(parts) > 1 and parts[1].isdecimal() and len(parts[1]) <= 3 else None
    truncated = False
    if "chunked" in headers.get("transfer-encoding", "").lower():
        body, truncated = joined_chunks(body)
    return HttpMessage(status, headers, body, truncated)


def joined_chunks(body: bytes) -> tuple[bytes, bool]:
    """Undo chunked transfer encoding: the content, and whether some of it is missing.

    Bytes that are not in chunks (archivers often undo it) stay as they are. Whole chunks without the last, empty one
    are taken for the whole body, as that one says nothing.
    """
    parts, position = [], 0
    while position < len(body):
        line_end = body.find(b"\r\n", position, position + 1024)
        size_text = body[position:line_end].partition(b";")[0].strip() if line_end >= 0 else b""
        try:
            size = int(size_text, 16) if size_text[:1].isalnum() and len(size_text) <= 16 else -1
        except ValueError:
            size = -1
        if size < 0:
            return (b"".join(parts), True) if parts else (body, False)
        if size == 0:
            break
        part = body[line_end + 2 : line_end + 2 + size]
        parts.append(part)
        if len(part) < size:
            return b"".join(parts), True
        position = line_end + 2 + size + 2
    return b"".join(parts), False


def media_type(content_type: str) -> tuple[str, str | None]:
    """Media type in lower case and character set (None where there is none) of a Content-Type."""
    name, *parameters = content_type.split(";")
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip().lower() == "charset":
            return name.strip().lower(), value.strip().strip("\"'") or None
    return name.strip().lower(), None


def _split_head(block: bytes) -> tuple[bytes, bytes]:
    ends = [(at, len(mark)) for mark in (b"\r\n\r\n", b"\n\n") if (at := block.find(mark, 0, MAX_HEADER)) >= 0]
    if not ends:
        return block[:MAX_HEADER], b""
    at, size = min(ends)
    return block[:at], block[at + size :]
