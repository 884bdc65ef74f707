"""Bytes of a response → text: Content-Encoding undone within a limit, character set found, nonsense refused."""

import zlib
from collections.abc import Callable

import brotli
import pyarrow as pa
from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5

_MAX_ENCODINGS = 3  # more than one is rare, more than three only occurs in attacks
_CHUNK = 1 << 20
_MAX_NONSENSE = 0.01  # share of characters that no text contains; binary data under a text type has far more
# Control characters that no text contains; tabs, line ends, form feeds and escapes (of ISO-2022) do occur.
_CONTROLS = bytes([*range(0x09), *range(0x0E, 0x1B), *range(0x1C, 0x20), 0x7F])
_MIN_SEQUENCES = 8  # bytes of UTF-8 beyond ASCII that other character sets do not form by chance


class RejectedError(Exception):
    """A page that yields no text; `reason` is counted, `detail` is kept beside the dropped row."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def decoded_content(body: bytes, encodings: str, limit: int) -> bytes:
    """Undo the encodings that a Content-Encoding header lists, never holding more than `limit` bytes of output.

    Raises:
        RejectedError: `too_large` or `undecodable`.
    """
    names = [name.strip().lower() for name in encodings.split(",") if name.strip().lower() not in ("", "identity")]
    if len(names) > _MAX_ENCODINGS:
        raise RejectedError("undecodable", f"{len(names)} content encodings")
    for name in reversed(names):
        if name not in _DECODERS:
            raise RejectedError("undecodable", f"content encoding {name}")
        body = _DECODERS[name](body, limit)
    if len(body) > limit:
        raise RejectedError("too_large", f"{len(body)} bytes, the limit is {limit}")
    return body


def decoded_text(body: bytes, charset: str | None) -> str:
    """Text by the character set that the server names, else the page itself, else the one that fits its bytes.

    Raises:
        RejectedError: `undecodable`, for binary data and broken text.
    """
    named = map_encoding_to_html5(charset, fallback_utf8=False) if charset else None
    encoding, encoded = "utf-8", body
    text = _utf8_text(body, is_named=named is not None) if named in (None, "utf-8") else None
    if text is None:
        encoding = named or detect_encoding(body, from_html_meta=True) or "utf-8"
        text = bytes_to_str(body, encoding, errors="replace")
        encoded = text.encode("utf-8", errors="replace")
    replaced = text.count("\ufffd") if "\ufffd" in text else 0  # to look for one is three times as fast as to count
    # Deleting bytes is several times faster than a regular expression that looks for them, or counting each.
    nonsense = replaced + len(encoded) - len(encoded.translate(None, _CONTROLS))
    if nonsense > _MAX_NONSENSE * len(text):
        raise RejectedError("undecodable", f"{nonsense} of {len(text)} characters are no text in {encoding}")
    return text


def _utf8_text(body: bytes, is_named: bool) -> str | None:
    """The text of what is UTF-8 beyond doubt, whatever the page says of itself; otherwise None.

    Pages whose meta element names another character set are mostly such as were converted on their way. Zero bytes
    may be of UTF-16, escapes of ISO-2022, and a few characters beyond ASCII may be pairs of another set.
    """
    if b"\0" in body or b"\x1b" in body:
        return None
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return None
    is_certain = is_named or len(body) == len(text) or len(body) - len(text) >= _MIN_SEQUENCES
    return text.removeprefix("\ufeff") if is_certain else None


def _inflate(body: bytes, limit: int) -> bytes:
    """Both forms that servers call deflate: with a zlib header, and without."""
    try:
        return _zlib_output(body, limit, zlib.MAX_WBITS)
    except RejectedError as error:
        if error.reason == "too_large":
            raise
        return _zlib_output(body, limit, -zlib.MAX_WBITS)


def _gunzip(body: bytes, limit: int) -> bytes:
    return _zlib_output(body, limit, 16 + zlib.MAX_WBITS)


def _zlib_output(body: bytes, limit: int, window_bits: int) -> bytes:
    decoder = zlib.decompressobj(window_bits)
    try:
        output = decoder.decompress(body, limit + 1)
    except zlib.error as error:
        raise RejectedError("undecodable", str(error)) from error
    if len(output) > limit:
        raise RejectedError("too_large", f"more than {limit} bytes after decompression")
    if not decoder.eof:
        raise RejectedError("undecodable", "the compressed body ends early")
    return output


def _unbrotli(body: bytes, limit: int) -> bytes:
    decoder = brotli.Decompressor()
    parts, size = [], 0
    try:
        part = decoder.process(body, output_buffer_limit=_CHUNK)
        while part or not (decoder.is_finished() or decoder.can_accept_more_data()):
            parts.append(part)
            size += len(part)
            if size > limit:
                raise RejectedError("too_large", f"more than {limit} bytes after decompression")
            part = decoder.process(b"", output_buffer_limit=_CHUNK)
    except brotli.error as error:
        raise RejectedError("undecodable", str(error)) from error
    if not decoder.is_finished():
        raise RejectedError("undecodable", "the compressed body ends early")
    return b"".join(parts)


def _unzstd(body: bytes, limit: int) -> bytes:
    try:
        output = pa.CompressedInputStream(pa.BufferReader(body), "zstd").read(limit + 1)
    except OSError as error:
        raise RejectedError("undecodable", str(error)) from error
    if len(output) > limit:
        raise RejectedError("too_large", f"more than {limit} bytes after decompression")
    return output


_DECODERS: dict[str, Callable[[bytes, int], bytes]] = {
    "gzip": _gunzip,
    "x-gzip": _gunzip,
    "deflate": _inflate,
    "br": _unbrotli,
    "zstd": _unzstd,
}
