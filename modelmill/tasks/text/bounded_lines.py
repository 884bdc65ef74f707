"""A file of lines → its lines one by one, in memory that no line can exceed; values of JSON, within limits."""

import gzip
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, cast

_BUFFER = 1 << 20
# An empty list of JSON takes 3 bytes in a file and 64 in memory: a row of a few long texts has far fewer values.
_MAX_VALUES = 1_000_000
_FEW_BYTES = 2 * _MAX_VALUES  # shorter lines cannot have as many


@dataclass(frozen=True)
class Line:
    """A line without its line end, numbered from 1; `content` is None where it is longer than the limit."""

    number: int
    content: bytes | None


def plain_stream(raw: IO[bytes]) -> IO[bytes]:
    """The stream from its beginning, decompressed as it is read if it is gzip."""
    is_compressed = raw.read(2) == b"\x1f\x8b"
    raw.seek(0)
    if not is_compressed:
        return raw
    # Its own readline makes several calls of Python for each line.
    return cast("IO[bytes]", io.BufferedReader(gzip.GzipFile(fileobj=raw), _BUFFER))  # type: ignore[arg-type]


def bounded_lines(stream: IO[bytes], limit: int) -> Iterator[Line]:
    """All lines that are not blank; of one longer than `limit` bytes nothing is held, and the next one follows.

    Raises:
        OSError, EOFError, zlib.error: the stream is damaged from there on.
    """
    number = 0
    while content := stream.readline(limit + 1):
        number += 1
        if len(content) > limit and not content.endswith(b"\n"):
            del content
            while (rest := stream.readline(_BUFFER)) and not rest.endswith(b"\n"):
                pass
            yield Line(number, None)
        elif stripped := content.strip():
            yield Line(number, stripped)


class TooManyValuesError(ValueError):
    """JSON of more values than any row has."""


def json_value(content: bytes) -> Any:
    """The value of a line of JSON.

    Raises:
        TooManyValuesError: it holds too many values to be made into objects.
        ValueError: it is no JSON, nests too deeply, or has a number of too many digits.
    """
    if len(content) > _FEW_BYTES and sum(map(content.count, (b",", b"[", b"{"))) > _MAX_VALUES:
        raise TooManyValuesError(f"more than {_MAX_VALUES:,} values")
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("it nests too deeply") from error


def without_surrogates(text: str) -> str:
    """The text with `?` for halves of surrogate pairs, which JSON can spell and which are no characters."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
