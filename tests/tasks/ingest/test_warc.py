"""Files that our writer makes, read by other people's readers and back by ours."""

import gzip
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fastwarc import ArchiveIterator, WarcRecordType
from warcio.archiveiterator import ArchiveIterator as WarcioIterator

from modelmill.tasks.ingest.archives import Capture, Damage, captures
from modelmill.tasks.ingest.fetch import Exchange
from modelmill.tasks.ingest.warc import write_warc

LIMIT = 100_000


def exchange(number: int, body: bytes = b"", headers: tuple[tuple[bytes, bytes], ...] = ()) -> Exchange:
    return Exchange(
        url=f"http://site.test/{number}",
        date=datetime(2024, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
        seconds=0.25,
        address="192.0.2.1",
        request=b"GET /%d HTTP/1.1\r\nHost: site.test\r\n\r\n" % number,
        http_version="HTTP/1.1",
        status=200,
        phrase="OK",
        headers=[(b"Content-Type", b"text/html; charset=utf-8"), *headers],
        body=body or b"<p>page %d</p>" % number + bytes(range(32, 127)) * (number + 1) * 20,
    )


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "some.warc.gz"
    gzipped = exchange(3, gzip.compress(b"<p>zipped</p>"), ((b"Content-Encoding", b"gzip"),))
    chunked = exchange(4, b"<p>whole</p>", ((b"Transfer-Encoding", b"chunked"), (b"Content-Length", b"999")))
    write_warc(
        path, [exchange(0), exchange(1), exchange(2), gzipped, chunked], {"software": "modelmill"}, {
            "http://site.test/1": "http://site.test/0"
        }
    )  # fmt: skip
    return path


def test_warcio_reads_every_record_and_its_digests(archive):
    types = []
    with archive.open("rb") as file:
        for record in WarcioIterator(file, check_digests="raise"):  # pyright: ignore[reportArgumentType]
            types.append(record.rec_type)
            assert record.rec_headers.protocol == "WARC/1.1"
            content = record.content_stream().read()
            if record.rec_headers.get_header("WARC-Target-URI") == "http://site.test/3" and types[-1] == "response":
                assert content == b"<p>zipped</p>"
    assert types == ["warcinfo", *["request", "response", "metadata"] * 5]


def test_fastwarc_reads_every_record_and_its_digests(archive):
    records = list(ArchiveIterator(str(archive), parse_http=False, func_filter=lambda r: r.verify_block_digest()))
    assert len(records) == 16
    responses = ArchiveIterator(str(archive), record_types=WarcRecordType.response)
    lengths = [(int(r.http_headers["Content-Length"]), len(r.reader.read())) for r in responses]
    assert all(declared == stored for declared, stored in lengths)


def test_each_record_is_a_gzip_member_of_its_own(archive):
    with archive.open("rb") as file:
        offsets = []
        iterator = WarcioIterator(file)
        for record in iterator:
            record.content_stream().read()
            offsets.append(iterator.get_record_offset())
    content = archive.read_bytes()
    assert len(offsets) == 16
    assert all(content[offset : offset + 3] == b"\x1f\x8b\x08" for offset in offsets)


def test_metadata_says_how_a_page_was_found(archive):
    metadata = [r.reader.read().decode() for r in ArchiveIterator(str(archive), record_types=WarcRecordType.metadata)]
    assert metadata[0] == "fetchTimeMs: 250\r\n"
    assert metadata[1] == "fetchTimeMs: 250\r\nvia: http://site.test/0\r\n"


def read(path: Path) -> tuple[list[str], list[str]]:
    found = list(captures(str(path), LIMIT))
    pages = [item.url[-1] for item in found if isinstance(item, Capture) and not item.truncated]
    return pages, [item.detail for item in found if isinstance(item, Damage)]


def test_our_reader_gives_back_what_was_written(archive):
    found = [item for item in captures(str(archive), LIMIT) if isinstance(item, Capture)]
    assert [item.url[-1] for item in found] == list("01234")
    assert found[0].body == exchange(0).body
    assert (found[0].date, found[0].media_type, found[0].charset) == ("2024-01-02T03:04:05Z", "text/html", "utf-8")
    assert found[3].content_encoding == "gzip"
    assert found[4].body == b"<p>whole</p>"


def test_a_truncated_file_gives_the_whole_records_before_the_cut(archive):
    content = archive.read_bytes()
    archive.write_bytes(content[: len(content) * 2 // 3])
    pages, _ = read(archive)
    assert pages == ["0", "1", "2"][: len(pages)]
    assert pages


def test_reading_goes_on_behind_damage(archive):
    content = bytearray(archive.read_bytes())
    offsets = [at for at in range(len(content)) if content[at : at + 3] == b"\x1f\x8b\x08"]
    content[offsets[5] + 40 : offsets[5] + 60] = b"\x00" * 20  # in the second response
    archive.write_bytes(content)
    pages, damages = read(archive)
    assert pages == ["0", "2", "3", "4"]
    assert len(damages) == 1


def test_reading_goes_on_behind_damage_in_a_plain_file(archive, tmp_path):
    content = gzip.decompress(archive.read_bytes())
    plain = tmp_path / "plain.warc"
    at = content.index(b"WARC/1.1\r\nWARC-Type: response", content.index(b"http://site.test/1"))
    plain.write_bytes(content[:at] + b"XXXX" + content[at + 4 :])
    pages, damages = read(plain)
    assert pages == ["0", "2", "3", "4"]
    assert len(damages) == 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"", "empty"), (b"no archive at all" * 100, "after 0 records"), (gzip.compress(b"", mtime=0), "no WARC record")],
)
def test_files_that_are_no_archive_are_damage(tmp_path, content, expected):
    path = tmp_path / "bad.warc.gz"
    path.write_bytes(content)
    pages, damages = read(path)
    assert pages == []
    assert expected in damages[0]


@pytest.mark.parametrize("compressed", [False, True])
def test_arc_files_are_read(tmp_path, compressed):
    version = b"1 0 Example\nURL IP-address Archive-date Content-type Archive-length\n\n"
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=latin-1\r\n\r\n<p>caf\xe9</p>"
    records = [
        b"filedesc://x.arc 0.0.0.0 20080102030405 text/plain %d\n" % len(version) + version + b"\n",
        b"http://old.test/ 192.0.2.1 20080102030405 text/html %d\n" % len(http) + http + b"\n",
        b"dns:old.test 192.0.2.1 20080102030405 text/dns 4\nname\n",
    ]
    path = tmp_path / "old.arc.gz"
    path.write_bytes(b"".join(gzip.compress(record) if compressed else record for record in records))
    (capture,) = captures(str(path), LIMIT)
    assert isinstance(capture, Capture)
    assert (capture.url, capture.date, capture.status) == ("http://old.test/", "2008-01-02T03:04:05Z", 200)
    assert capture.body.endswith(b"caf\xe9</p>")
