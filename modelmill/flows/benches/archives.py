"""A WARC file, given or generated → responses a second of our reader, also behind damage, and of its peers."""

import gzip
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastwarc import ArchiveIterator, WarcRecordType

from modelmill.flows.benches.measured import Measured, cpu_seconds, peer
from modelmill.tasks.ingest.archives import Capture, Damage, captures

_STEP = "archives"
_LIMIT = 4_000_000  # bytes a page, the default of the recipe


def measure(archive: Path | None = None, num_records: int = 500) -> list[Measured]:
    """Readers of one gzip-compressed WARC file; without one, of `num_records` generated pages of some 50 KB."""
    with tempfile.TemporaryDirectory() as folder:
        path = archive or generated_archive(Path(folder) / "whole.warc.gz", num_records)
        damaged = Path(folder) / "damaged.warc.gz"
        content = path.read_bytes()
        second = content.find(b"\x1f\x8b\x08", 1)
        damaged.write_bytes(content[: second // 2] + content[second // 2 + 10 :])
        rows = [
            _row("modelmill", _ours(path)),
            _row("modelmill", _ours(damaged), "the first member damaged: the slower reading from there on"),
            _row("fastwarc", _fastwarc(path)),
        ]
        return [*rows, peer(_STEP, "warcio", "warcio", lambda: _warcio_row(path))]


def _row(tool: str, read: Callable[[], dict[str, int]], note: str = "") -> Measured:
    found = read()
    rate = found["responses"] / cpu_seconds(read)
    return Measured(_STEP, tool, rate, "responses/s", {name: float(number) for name, number in found.items()}, note)


def _ours(path: Path) -> Callable[[], dict[str, int]]:
    def read() -> dict[str, int]:
        found = list(captures(str(path), _LIMIT))
        num_responses = sum(isinstance(item, Capture) for item in found)
        return {"responses": num_responses, "damages": sum(isinstance(item, Damage) for item in found)}

    return read


def _fastwarc(path: Path) -> Callable[[], dict[str, int]]:
    def read() -> dict[str, int]:
        records = ArchiveIterator(str(path), record_types=WarcRecordType.response, parse_http=True)
        return {"responses": sum(record.reader.read() is not None for record in records)}

    return read


def _warcio_row(path: Path) -> Measured:
    from warcio.archiveiterator import ArchiveIterator as WarcioIterator

    def read() -> dict[str, int]:
        num_responses = 0
        with path.open("rb") as file:
            records: Any = WarcioIterator(file)
            for record in records:
                num_responses += record.rec_type == "response" and record.content_stream().read() is not None
        return {"responses": num_responses}

    return _row("warcio", read)


def generated_archive(path: Path, num_records: int) -> Path:
    """Responses with random words, one gzip member each."""
    words = [f"w{number * 7919 % 999_983}" for number in range(20_000)]
    draw = random.Random(0)
    with path.open("wb") as file:
        for number in range(num_records):
            body = " ".join(draw.choices(words, k=7_000)).encode()
            http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            header = (
                "WARC/1.1\r\nWARC-Type: response\r\nWARC-Date: 2024-01-02T03:04:05Z\r\n"
                f"WARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-{number:012d}>\r\n"
                f"WARC-Target-URI: http://site.test/{number}\r\n"
                f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(http)}\r\n\r\n"
            )
            file.write(gzip.compress(header.encode() + http + b"\r\n\r\n", 6, mtime=0))
    return path
