"""Decompressed bytes of a WARC or ARC archive, window by window → whole records, and gaps with reason and offset.

For archives that are damaged: a record counts only if another record or the end follows where its length says so. Where
it does not, reading goes on at the next header, so that one wrong length costs one record.
"""

import bisect
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass

MAX_RECORD = 16 << 20  # bytes held for one record; behind damage, larger ones are gaps
MAX_HEADER = 64 << 10  # as fastwarc's
_HEADER_START = 8 << 10  # bytes that are kept because a header may begin in them
_HTTP_LENGTH = re.compile(rb"(?i)\ncontent-length:[ \t]*(\d{1,15})[ \t]*(?:\r|$)")


@dataclass(frozen=True)
class Piece:
    """One whole record: where it begins, its header with the empty line, its block, and its URL (may be empty)."""

    offset: int
    header: bytes
    block: bytes
    url: str


@dataclass(frozen=True)
class Gap:
    """A stretch in which no whole record lies; `url` where a header in it could still be read."""

    offset: int
    reason: str
    url: str = ""


@dataclass(frozen=True)
class Header:
    """What a record says of itself: `end` is where its block begins, `length` is None where it names none."""

    end: int
    length: int | None
    url: str


class Grammar:
    """How the headers of a format look: patterns of the first line, of the end, of the length, of the URL.

    `lookahead` bytes tell whether a header begins; of one that was cut off, `prefix` is recognised.
    """

    def __init__(self, start: bytes, end: bytes, length: bytes, url: bytes, lookahead: int, prefix: bytes) -> None:
        self.start, self._end = re.compile(start), re.compile(end)
        self._length, self._url = re.compile(length), re.compile(url)
        self.lookahead, self.prefix = lookahead, prefix

    def next_start(self, data: bytearray, position: int) -> int | None:
        """Where the next header begins."""
        found = self.start.search(data, position)
        return found.start() if found else None

    def header(self, data: bytearray, position: int) -> Header | None:
        """The header that begins at `position`, or None when its end is not there."""
        end = self._end.search(data, position, position + MAX_HEADER)
        if end is None:
            return None
        length = self._length.search(data, position, end.end())
        url = self._url.search(data, position, end.end())
        address = url.group(1).strip(b"<>").decode("utf-8", errors="replace") if url else ""
        return Header(end.end(), int(length.group(1)) if length else None, address)


WARC = Grammar(
    start=rb"WARC/\d\.\d{1,2}\r?\n(?=[A-Za-z])",
    end=rb"\r\n\r\n|\n\n",
    length=rb"(?i)\ncontent-length:[ \t]*(\d{1,15})[ \t]*\r?\n",
    url=rb"(?i)\nwarc-target-uri:[ \t]*(\S{1,4000})",
    lookahead=64,
    prefix=b"WARC/1.0\r\n",
)
# URL, IP address, date, content type, length; version 2 puts five more fields before the length.
ARC = Grammar(
    start=rb"(?<![^\n])[a-z]{2,20}:[^\s]{1,4000} [0-9a-fA-F.:-]{1,45} \d{8,14} [^\n]{1,400}? ?\d{1,15}\r?\n",
    end=rb"\n",
    length=rb" (\d{1,15})\r?\n",
    url=rb"(\S{1,4000})",
    lookahead=5_000,
    prefix=b"http",
)


class Framer:
    """Cuts windows into records. `scale` is 1 where offsets are those of the windows' bytes, 0 where a window's
    offset is that of the compressed member it came from."""

    def __init__(self, grammar: Grammar, scale: int) -> None:
        self._grammar, self._scale = grammar, scale
        self._buffer = bytearray()
        self._removed = 0  # bytes that went before the buffer
        self._origins: list[tuple[int, int]] = []  # position in all decompressed bytes, offset in the file
        self._in_gap = False

    @property
    def is_lost(self) -> bool:
        """Whether no record was found since the last gap began."""
        return self._in_gap

    def feed(self, offset: int, window: bytes, is_member: bool = False) -> Iterator[Piece | Gap]:
        """Take the next window; `is_member` where it begins a member, which nearly always begins a record."""
        if is_member and self._buffer and self._grammar.start.match(window.lstrip(b"\r\n")):
            yield from self.finish()
        self._origins.append((self._removed + len(self._buffer), offset))
        self._buffer += window
        yield from self._found(None, self._grammar.lookahead)

    def end_member(self) -> Iterator[Piece | Gap]:
        """What was fed so far ends a member that is whole: a record that ends here too needs nothing behind it."""
        yield from self._found(None, 0)

    def finish(self, reason: str = "the record ends early") -> Iterator[Piece | Gap]:
        """No more follows what was fed: what is incomplete is a gap, for that reason."""
        yield from self._found(reason, 0)

    def gap(self, offset: int, reason: str) -> Iterator[Piece | Gap]:
        """The file cannot be decompressed at `offset`, nor is what was fed last to be trusted (its checksum failed)."""
        yield from self._found(reason, self._grammar.lookahead)
        if not self._in_gap:
            self._in_gap = True
            yield Gap(offset, reason)

    def _found(self, ending: str | None, lookahead: int) -> Iterator[Piece | Gap]:
        position = 0
        while (position := self._behind_newlines(position)) < len(self._buffer):
            step = self._step(position, ending, lookahead)
            if step is None:
                break
            item, position = step
            # A gap behind a gap is the same damage, unless a header names another page.
            is_same_damage = self._in_gap and isinstance(item, Gap) and not item.url
            self._in_gap = isinstance(item, Gap)
            if not is_same_damage:
                yield item
        position = min(position, len(self._buffer))
        self._removed += position
        del self._buffer[:position]
        del self._origins[: self._origin_index(self._removed)]

    def _step(self, position: int, ending: str | None, lookahead: int) -> tuple[Piece | Gap, int] | None:
        """What lies at `position` and the position behind it; None when more must be fed first."""
        if not self._grammar.start.match(self._buffer, position):
            return self._no_header(position, ending)
        header = self._grammar.header(self._buffer, position)
        if header is None:
            if ending is None and len(self._buffer) - position <= MAX_HEADER:
                return None
            return Gap(self._offset(position), ending or "the record header does not end"), position + 1
        is_held = ending is not None or len(self._buffer) - position > MAX_RECORD
        if header.length is not None:
            end = header.end + header.length
            if end + lookahead <= len(self._buffer):
                if self._ends_record(end):
                    return self._piece(position, header, end), end
            elif not is_held:
                return None
        following = self._grammar.next_start(self._buffer, header.end)
        if following is None and not is_held:
            return None
        return self._wrong_length(position, header, following, ending, is_cut=lookahead > 0)

    def _no_header(self, position: int, ending: str | None) -> tuple[Gap, int] | None:
        following = self._grammar.next_start(self._buffer, position)
        if following is None and ending is not None:
            following = len(self._buffer)
        elif following is None:
            following = len(self._buffer) - _HEADER_START
            if following <= position:
                return None
        assert following is not None
        return Gap(self._offset(position), "no record header"), following

    def _wrong_length(
        self, position: int, header: Header, following: int | None, ending: str | None, is_cut: bool
    ) -> tuple[Piece | Gap, int]:
        """A record that does not end where it says: whole all the same if its HTTP message has the length it names."""
        end = len(self._buffer) if following is None else following
        if following is not None or (ending is not None and not is_cut):
            block = bytes(self._buffer[header.end : end]).removesuffix(b"\n").removesuffix(b"\r")
            block = block.removesuffix(b"\n").removesuffix(b"\r")
            if is_whole_message(block):
                return self._piece(position, header, header.end + len(block)), end
        if following is not None:
            reason = f"the record's length is wrong ({header.length})"
        elif ending is not None:
            reason = ending
        else:
            end -= _HEADER_START
            reason = f"more than {MAX_RECORD} bytes up to the next record"
        return Gap(self._offset(position), reason, header.url), end

    def _piece(self, position: int, header: Header, end: int) -> Piece:
        head = bytes(self._buffer[position : header.end])
        return Piece(self._offset(position), head, bytes(self._buffer[header.end : end]), header.url)

    def _ends_record(self, end: int) -> bool:
        """Whether nothing, the empty lines that end a record, or another record follow; in the last few bytes, whether
        one may."""
        if self._buffer[end : end + 4] == b"\r\n\r\n":
            return True
        behind = self._behind_newlines(end)
        left = len(self._buffer) - behind
        if left == 0 or self._grammar.start.match(self._buffer, behind):
            return True
        start = bytes(self._buffer[behind : behind + len(self._grammar.prefix)])
        return left < self._grammar.lookahead and self._grammar.prefix.startswith(start)

    def _behind_newlines(self, position: int) -> int:
        while position < len(self._buffer) and self._buffer[position] in b"\r\n":
            position += 1
        return position

    def _origin_index(self, absolute: int) -> int:
        return max(bisect.bisect_right(self._origins, (absolute, sys.maxsize)) - 1, 0)

    def _offset(self, position: int) -> int:
        absolute = self._removed + position
        start, offset = self._origins[self._origin_index(absolute)]
        return offset + self._scale * (absolute - start)


def is_whole_message(block: bytes) -> bool:
    """Whether an HTTP message is stored with as many bytes as its Content-Length names."""
    head, blank, _ = block[:MAX_HEADER].partition(b"\r\n\r\n")
    named = _HTTP_LENGTH.search(head) if blank and head.startswith(b"HTTP/") else None
    return named is not None and int(named.group(1)) == len(block) - len(head) - len(blank)
