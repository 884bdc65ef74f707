"""A damaged archive → the pieces of it that can still be read: whole gzip members, or stretches from one WARC
header to the next."""

import zlib
from collections.abc import Iterator
from typing import IO

_GZIP_MAGIC = b"\x1f\x8b\x08"
_WARC_HEADER = b"\r\n\r\nWARC/1."
_CHUNK = 64 << 10  # members of a web archive are about this long
_MAX_PIECE = 64 << 20  # bytes; a single record of more is beyond any page limit, and skipped


def pieces(stream: IO[bytes]) -> Iterator[bytes]:
    """Readable pieces in order; what lies between them is skipped."""
    head = stream.read(len(_GZIP_MAGIC))
    stream.seek(0)
    yield from (_members(stream) if head == _GZIP_MAGIC else _stretches(stream))


def _members(stream: IO[bytes]) -> Iterator[bytes]:
    """Content of each gzip member that is whole."""
    position = 0
    while (start := _find(stream, _GZIP_MAGIC, position)) is not None:
        content, end = _member(stream, start)
        if content is None:
            position = start + 1
        else:
            position = end
            yield content


def _find(stream: IO[bytes], mark: bytes, position: int) -> int | None:
    """Offset of the next `mark` at or after `position`."""
    overlap = b""
    stream.seek(position)
    while chunk := stream.read(_CHUNK):
        window = overlap + chunk
        found = window.find(mark)
        if found >= 0:
            return position - len(overlap) + found
        position += len(chunk)
        overlap = window[-(len(mark) - 1) :]
    return None


def _member(stream: IO[bytes], start: int) -> tuple[bytes | None, int]:
    """Content of the member that begins at `start`, and the offset behind it; None when it is damaged or too big."""
    stream.seek(start)
    decoder = zlib.decompressobj(16 + zlib.MAX_WBITS)
    parts, size, position = [], 0, start
    while not decoder.eof:
        chunk = decoder.unconsumed_tail
        if not chunk:
            chunk = stream.read(_CHUNK)
            position += len(chunk)
        if not chunk or size > _MAX_PIECE:
            return None, position
        try:
            parts.append(decoder.decompress(chunk, _MAX_PIECE))
        except zlib.error:
            return None, position
        size += len(parts[-1])
    return b"".join(parts), position - len(decoder.unused_data)


def _stretches(stream: IO[bytes]) -> Iterator[bytes]:
    """Bytes from each WARC header up to the next one."""
    buffer = b"\r\n\r\n"  # so that a header at the very beginning is found too
    is_record = False
    while chunk := stream.read(_CHUNK):
        *finished, buffer = (buffer + chunk).split(_WARC_HEADER)
        for part in finished:
            if is_record:
                yield _WARC_HEADER.lstrip() + part + b"\r\n\r\n"
            is_record = True
        if len(buffer) > _MAX_PIECE:
            buffer, is_record = buffer[-len(_WARC_HEADER) :], False
    if is_record:
        yield _WARC_HEADER.lstrip() + buffer
