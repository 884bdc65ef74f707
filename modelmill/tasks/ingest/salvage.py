"""A damaged archive from some offset on → its whole records and the gaps between them, in one pass and bounded memory.

Compressed archives are read member by member: what is wrong in one (or between two) costs no other, wherever the next
member begins. The member formats are those of RFC 1952 (gzip), RFC 8878 (zstd) and the LZ4 frame format 1.6.
"""

import contextlib
import io
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any

from fastwarc import Lz4Reader, ZstdReader

from modelmill.tasks.ingest.framing import Framer, Gap, Grammar, Piece

GZIP_MAGIC = b"\x1f\x8b\x08"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
ZSTD_DICTIONARY_MAGIC = b"\x5d\x2a\x4d\x18"  # a skippable frame in front of .warc.zst files (IIPC's proposal)
LZ4_MAGIC = b"\x04\x22\x4d\x18"
_READ = 64 << 10  # members of a web archive are about this long
_WINDOW = 1 << 20
_STEP = 64  # compressed bytes at a time, to get as near to damage as possible
_MAX_LOST = 1 << 30  # bytes of a member without a record, after which it is left: a second or two
_MAX_DICTIONARY = 16 << 20
_DAMAGED = (OSError, EOFError, zlib.error)

# Decompressed windows of the member that begins at an offset, each with the offset behind the member (None: not yet).
_Windows = Callable[[IO[bytes], int], Iterator[tuple[bytes, int | None]]]


def salvaged(stream: IO[bytes], offset: int, grammar: Grammar) -> Iterator[Piece | Gap]:
    """Records and gaps from a member's or record's offset to the end of the stream, which must be seekable."""
    magic = _magic(stream, grammar)
    if magic == GZIP_MAGIC:
        yield from _members(stream, offset, grammar, magic, _gzip_windows)
    elif magic == LZ4_MAGIC:
        yield from _members(stream, offset, grammar, magic, _lz4_windows)
    elif magic == ZSTD_MAGIC:
        dictionary, end = _dictionary(stream)
        yield from _members(stream, max(offset, end), grammar, magic, _zstd_windows(dictionary))
    else:
        framer = Framer(grammar, scale=1)
        stream.seek(offset)
        while window := stream.read(_WINDOW):
            yield from framer.feed(offset, window)
            offset += len(window)
        yield from framer.finish("the file ends early")


def _magic(stream: IO[bytes], grammar: Grammar) -> bytes:
    """The mark of the file's compression, empty for none: the one that comes first, as the very first bytes may be
    damaged."""
    stream.seek(0)
    head = bytearray(stream.read(_WINDOW))
    if head.startswith(ZSTD_DICTIONARY_MAGIC):
        return ZSTD_MAGIC  # the dictionary holds pieces of headers
    found = {magic: head.find(magic) for magic in (GZIP_MAGIC, ZSTD_MAGIC, LZ4_MAGIC)}
    plain = grammar.next_start(head, 0)
    found[b""] = len(head) if plain is None else plain
    return min((at, magic) for magic, at in found.items() if at >= 0)[1]


def _members(
    stream: IO[bytes], position: int, grammar: Grammar, magic: bytes, windows: _Windows
) -> Iterator[Piece | Gap]:
    framer = Framer(grammar, scale=0)
    while (start := _find(stream, magic, position)) is not None:
        if start > position:
            yield from framer.finish()
            yield from framer.gap(position, "bytes between members that belong to none")
        position = start + 1
        num_lost, is_first = 0, True
        try:
            for window, end in windows(stream, start):
                yield from framer.feed(start, window, is_first)
                num_lost = num_lost + len(window) if framer.is_lost else 0
                if num_lost > _MAX_LOST:
                    raise EOFError(f"no record in {num_lost} bytes")
                is_first, position = False, position if end is None else end
            yield from framer.end_member()
        except _DAMAGED as error:
            yield from framer.gap(start, f"a damaged member: {error}")
    yield from framer.finish()
    if stream.seek(0, io.SEEK_END) > position:
        yield from framer.gap(position, "bytes at the end that belong to no member")


def _find(stream: IO[bytes], mark: bytes, position: int) -> int | None:
    """Offset of the next `mark` at or after `position`."""
    overlap = b""
    stream.seek(position)
    while chunk := stream.read(_READ):
        window = overlap + chunk
        found = window.find(mark)
        if found >= 0:
            return position - len(overlap) + found
        position += len(chunk)
        overlap = window[-(len(mark) - 1) :]
    return None


def _gzip_windows(stream: IO[bytes], start: int) -> Iterator[tuple[bytes, int | None]]:
    """A window behind which the member turns out damaged is given too: its header may name the page that was lost."""
    decoder = zlib.decompressobj(16 + zlib.MAX_WBITS)
    position = start
    while not decoder.eof:
        chunk = decoder.unconsumed_tail
        if not chunk:
            stream.seek(position)
            chunk = stream.read(_READ)
            position += len(chunk)
        if not chunk:
            raise EOFError("it ends early")
        before = decoder.copy()
        try:
            window = decoder.decompress(chunk, _WINDOW)
        except zlib.error:
            yield readable_start(chunk, before), None
            raise
        yield window, (position - len(decoder.unused_data) if decoder.eof else None)


def readable_start(chunk: bytes, decoder: Any = None) -> bytes:
    """What comes out of a gzip member before its damage, or before the end of the chunk."""
    decoder = decoder or zlib.decompressobj(16 + zlib.MAX_WBITS)
    parts = []
    try:
        for at in range(0, len(chunk), _STEP):
            parts.append(decoder.decompress(chunk[at : at + _STEP], _WINDOW))
    except zlib.error:
        pass
    return b"".join(parts)


@contextlib.contextmanager
def panics_as_errors() -> Iterator[None]:
    """fastwarc 2.0 panics over a damaged zstd dictionary, which Python sees as no Exception at all."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise OSError(str(error)) from error


def _zstd_windows(dictionary: bytes | None) -> _Windows:
    def windows(stream: IO[bytes], start: int) -> Iterator[tuple[bytes, int | None]]:
        end = _zstd_end(stream, start)
        with panics_as_errors():
            reader = ZstdReader(_Slice(stream, start, end), dictionary=dictionary)  # pyright: ignore
        return _frame_windows(reader, end)

    return windows


def _lz4_windows(stream: IO[bytes], start: int) -> Iterator[tuple[bytes, int | None]]:
    end = _lz4_end(stream, start)
    return _frame_windows(Lz4Reader(_Slice(stream, start, end)), end)  # pyright: ignore[reportArgumentType]


def _frame_windows(reader: Any, end: int) -> Iterator[tuple[bytes, int | None]]:
    window = b"-"
    while window:
        with panics_as_errors():
            window = reader.read(_WINDOW)
        yield window, None
    yield b"", end


class _Slice:
    """The bytes of a stream from `start` up to `end`, as a stream of their own."""

    def __init__(self, stream: IO[bytes], start: int, end: int) -> None:
        self._stream, self._start, self._end = stream, start, end
        self._position = start

    def read(self, size: int = -1) -> bytes:
        left = self._end - self._position
        self._stream.seek(self._position)
        content = self._stream.read(left if size < 0 else min(size, left))
        self._position += len(content)
        return content

    def tell(self) -> int:
        return self._position - self._start

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: self._start, io.SEEK_CUR: self._position, io.SEEK_END: self._end}[whence]
        self._position = base + offset
        return self.tell()


def _dictionary(stream: IO[bytes]) -> tuple[bytes | None, int]:
    """The dictionary in front of a .warc.zst file, which may itself be compressed, and the offset behind it."""
    stream.seek(0)
    if stream.read(4) != ZSTD_DICTIONARY_MAGIC:
        return None, 0
    size = int.from_bytes(stream.read(4), "little")
    dictionary = stream.read(min(size, _MAX_DICTIONARY))
    if dictionary.startswith(ZSTD_MAGIC):
        try:
            with panics_as_errors():
                dictionary = ZstdReader(io.BytesIO(dictionary)).read(_MAX_DICTIONARY)  # pyright: ignore
        except OSError:
            return None, 8 + size
    return dictionary, 8 + size


def _zstd_end(stream: IO[bytes], start: int) -> int:
    """The offset behind a zstd frame, from the sizes that its header and blocks name."""
    stream.seek(start + 4)
    flags = _number(stream, 1)
    is_single_segment = flags >> 5 & 1
    size_bytes = (1, 2, 4, 8)[flags >> 6] if flags >> 6 or is_single_segment else 0
    position = start + 5 + (1 - is_single_segment) + (0, 1, 2, 4)[flags & 3] + size_bytes
    is_last = False
    while not is_last:
        stream.seek(position)
        block = _number(stream, 3)
        is_last, kind, size = bool(block & 1), block >> 1 & 3, block >> 3
        position += 3 + (1 if kind == 1 else size)  # 1: one byte, repeated
    return position + (4 if flags >> 2 & 1 else 0)


def _lz4_end(stream: IO[bytes], start: int) -> int:
    """The offset behind an LZ4 frame, from the sizes that its header and blocks name."""
    stream.seek(start + 4)
    flags = _number(stream, 1)
    position = start + 7 + (8 if flags >> 3 & 1 else 0) + (4 if flags & 1 else 0)
    while True:
        stream.seek(position)
        size = _number(stream, 4) & 0x7FFFFFFF  # the highest bit says that the block is stored as it is
        position += 4
        if size == 0:
            return position + (4 if flags >> 2 & 1 else 0)
        position += size + (4 if flags >> 4 & 1 else 0)


def _number(stream: IO[bytes], size: int) -> int:
    content = stream.read(size)
    if len(content) < size:
        raise EOFError("it ends early")
    return int.from_bytes(content, "little")
