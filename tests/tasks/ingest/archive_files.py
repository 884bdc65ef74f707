"""Archives that tests make and damage: records of known pages in every container that is read."""

import gzip
import io
from collections.abc import Callable, Sequence

from fastwarc import Lz4Writer, ZstdWriter
from fastwarc.stream_io import zstd_train_dictionary_from_samples

NUM_PAGES = 6


def page(number: int) -> bytes:
    """The body of a page, distinct and of some length."""
    return b"<html><p>page %d</p>" % number + b"".join(b"word%d " % (number * 1000 + word) for word in range(150))


def warc_record(number: int, body: bytes | None = None, length: int | None = None) -> bytes:
    """One response record; `length` is what its header says where that is not true."""
    body = page(number) if body is None else body
    block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    return warc_header(number, len(block) if length is None else length) + block + b"\r\n\r\n"


def warc_header(number: int, length: int, content_type: str = "application/http; msgtype=response") -> bytes:
    """The header of a response record of page `number`."""
    lines = [
        "WARC/1.1",
        "WARC-Type: response",
        f"WARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-{number:012d}>",
        "WARC-Date: 2024-01-02T03:04:05Z",
        f"WARC-Target-URI: http://site.test/{number}",
        f"Content-Type: {content_type}",
        f"Content-Length: {length}",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def arc_records(version: int = 1) -> list[bytes]:
    """The version block and the pages of an ARC file."""
    names = "URL IP-address Archive-date Content-type"
    names += " Result-code Checksum Location Offset Filename Archive-length" if version == 2 else " Archive-length"
    block = f"{version} 0 Example\n{names}\n\n".encode()
    more = b" 200 - - 0 x.arc" if version == 2 else b""
    records = [b"filedesc://x.arc 0.0.0.0 20080102030405 text/plain%s %d\n" % (more, len(block)) + block + b"\n"]
    for number in range(NUM_PAGES):
        http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + page(number)
        line = b"http://site.test/%d 192.0.2.1 20080102030405 text/html%s %d\n" % (number, more, len(http))
        records.append(line + http + b"\n")
    return records


def plain(records: Sequence[bytes]) -> bytes:
    """No compression."""
    return b"".join(records)


def gzipped(records: Sequence[bytes]) -> bytes:
    """One gzip member a record."""
    return b"".join(gzip.compress(record, mtime=0) for record in records)


def one_member(records: Sequence[bytes]) -> bytes:
    """One gzip member for the whole file."""
    return gzip.compress(b"".join(records), mtime=0)


def pairs(records: Sequence[bytes]) -> bytes:
    """Two records a gzip member."""
    return b"".join(gzip.compress(b"".join(records[at : at + 2]), mtime=0) for at in range(0, len(records), 2))


def blocks(records: Sequence[bytes]) -> bytes:
    """Gzip members that begin anywhere, as block compressors make them."""
    whole = b"".join(records)
    return b"".join(gzip.compress(whole[at : at + 1000], mtime=0) for at in range(0, len(whole), 1000))


def zstd(records: Sequence[bytes]) -> bytes:
    """One zstd frame a record."""
    return _framed(records, ZstdWriter)


def zstd_dictionary(records: Sequence[bytes]) -> bytes:
    """The same with a dictionary in front, as IIPC's proposal has it."""
    dictionary = zstd_train_dictionary_from_samples(list(records) * 30, 4000)
    return _framed(records, lambda file: ZstdWriter(file, dictionary=dictionary))


def zstd_packed_dictionary(records: Sequence[bytes]) -> bytes:
    """The same with a dictionary that is compressed itself."""
    dictionary = zstd_train_dictionary_from_samples(list(records) * 30, 4000)
    return _framed(records, lambda file: ZstdWriter(file, dictionary=dictionary, compress_dictionary_frame=True))


def lz4(records: Sequence[bytes]) -> bytes:
    """One LZ4 frame a record."""
    return _framed(records, Lz4Writer)


def _framed(records: Sequence[bytes], writer_of: Callable) -> bytes:
    file = io.BytesIO()
    writer = writer_of(file)
    for record in records:
        writer.write(record)
        writer.finish()
    writer.flush()
    return file.getvalue()


CONTAINERS: dict[str, Callable[[Sequence[bytes]], bytes]] = {
    function.__name__: function
    for function in (
        plain, gzipped, one_member, pairs, blocks, zstd, zstd_dictionary, zstd_packed_dictionary, lz4
    )
}  # fmt: skip
INDEXED = ["gzipped", "zstd", "zstd_dictionary", "zstd_packed_dictionary", "lz4"]  # a member of its own each
