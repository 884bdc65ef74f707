"""Damaged archives: what is readable is read, each damage is told once with its place, and nothing hangs or crashes."""

import gzip
import os
import re
from pathlib import Path

import brotli
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelmill.tasks.ingest.archives import Capture, Damage, captures
from modelmill.tasks.ingest.decode import decoded_content
from modelmill.tasks.ingest.schema import page_date
from tests.tasks.ingest.archive_files import (
    CONTAINERS,
    INDEXED,
    NUM_PAGES,
    arc_records,
    gzipped,
    page,
    plain,
    warc_header,
    warc_record,
)
from tests.tasks.ingest.rows import rows_of

LIMIT = 100_000
ALL = list(range(NUM_PAGES))
BODIES = [page(number) for number in ALL]
RECORDS = [warc_record(number) for number in ALL]


@pytest.fixture
def read(tmp_path: Path):
    """Write bytes and read them back: numbers of the pages that are as they were, and the damage."""

    def read_bytes(content: bytes) -> tuple[list[int], list[Damage]]:
        path = tmp_path / "x.warc.gz"
        path.write_bytes(content)
        return found_in(path)

    return read_bytes


def found_in(path: Path) -> tuple[list[int], list[Damage]]:
    pages, damages = [], []
    for item in captures(str(path), LIMIT):
        if isinstance(item, Damage):
            damages.append(item)
        elif not item.truncated and item.body in BODIES:
            pages.append(BODIES.index(item.body))
    return pages, damages


def offset_of(damage: Damage) -> int:
    found = re.search(r"at byte (\d+)", damage.detail)
    assert found, damage.detail
    return int(found.group(1))


@pytest.mark.parametrize("container", CONTAINERS)
def test_whole_archives_are_read_without_a_word(read, container):
    assert read(CONTAINERS[container](RECORDS)) == (ALL, [])


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("version", [1, 2])
def test_arc_files_too(read, container, version):
    if container in INDEXED[1:]:
        pytest.skip("ARC files are older than these compressions")
    assert read(CONTAINERS[container](arc_records(version))) == (ALL, [])


@pytest.mark.parametrize("container", ["plain", "gzipped", "zstd", "lz4"])
def test_each_page_has_the_offset_of_its_record(tmp_path, container):
    path = tmp_path / "x"
    path.write_bytes(CONTAINERS[container](RECORDS))
    offsets = [item.offset for item in captures(str(path), LIMIT) if isinstance(item, Capture)]
    assert offsets == [len(CONTAINERS[container](RECORDS[:number])) for number in ALL]


@pytest.mark.parametrize("container", ["plain", *INDEXED])
def test_a_cut_costs_the_record_that_it_goes_through(read, container):
    content = CONTAINERS[container](RECORDS)
    starts = [len(content) - len(CONTAINERS[container](RECORDS[number:])) for number in ALL]
    if "dictionary" in container:  # each such file has a dictionary of its own
        starts = [offset for offset in range(len(content)) if content[offset : offset + 4] == b"\x28\xb5\x2f\xfd"]
        starts = starts[-NUM_PAGES:]
    for back in (1, 3, 5, 9, 40, len(content) - starts[-1] - 2):
        if container == "plain" and back <= len(b"\r\n\r\n"):
            continue  # only the empty lines behind the record are gone
        pages, damages = read(content[:-back])
        assert (pages, [offset_of(damage) for damage in damages]) == (ALL[:-1], [starts[-1]]), back


@pytest.mark.parametrize("container", INDEXED)
@pytest.mark.parametrize("damage", ["flip", "zeros", "hole", "garbage in front", "zeros in front", "missing", "half"])
def test_damage_in_the_middle_costs_its_member_only(read, container, damage):
    content = CONTAINERS[container](RECORDS)
    magic = {"gzipped": b"\x1f\x8b\x08", "lz4": b"\x04\x22\x4d\x18"}.get(container, b"\x28\xb5\x2f\xfd")
    starts = [at for at in range(len(content)) if content.startswith(magic, at)][-NUM_PAGES:]
    start, end = starts[2], starts[3]
    member = content[start:end]
    middle = len(member) // 2
    changed = {
        "flip": member[:middle] + bytes([member[middle] ^ 0xFF]) + member[middle + 1 :],
        "zeros": member[:middle] + bytes(20) + member[middle + 20 :],
        "hole": member[: middle - 10] + member[middle + 10 :],
        "garbage in front": b"GARBAGE" * 9 + member,
        "zeros in front": bytes(512) + member,
        "missing": b"",
        "half": member[:middle],
    }[damage]
    pages, damages = read(content[:start] + changed + content[end:])
    lost = [] if "front" in damage else [2]
    assert pages == [number for number in ALL if number not in lost]
    assert len(damages) == (damage != "missing")  # what is not there leaves no trace
    assert all(start <= offset_of(found) < start + len(changed) for found in damages)


@pytest.mark.parametrize("container", ["plain", "gzipped", "one_member", "pairs", "zstd", "lz4"])
@pytest.mark.parametrize("length", [0, 50, 1700, 99_999, 2**40, 2**62, 2**70])
def test_a_wrong_record_length_costs_nothing_where_the_page_has_a_length_of_its_own(read, container, length):
    assert read(CONTAINERS[container]([*RECORDS[:2], warc_record(2, length=length), *RECORDS[3:]])) == (ALL, [])


@pytest.mark.parametrize("container", ["plain", "gzipped", "one_member", "zstd"])
@pytest.mark.parametrize("length", [50, 99_999])
def test_a_wrong_record_length_costs_the_record_where_it_has_none(read, container, length):
    block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + page(2)
    pages, damages = read(
        CONTAINERS[container]([*RECORDS[:2], warc_header(2, length) + block + b"\r\n\r\n", *RECORDS[3:]])
    )
    assert pages == [0, 1, 3, 4, 5]
    assert [(damage.url, str(length) in damage.detail or "early" in damage.detail) for damage in damages] == [
        ("http://site.test/2", True)
    ]


@pytest.mark.parametrize(
    "header",
    [
        warc_header(2, 10).replace(b"Content-Length: ", b"Content-Length: -"),
        warc_header(2, 10).replace(b"Content-Length: 10\r\n", b""),
        b"WXRC" + warc_header(2, 10)[4:],
        warc_header(2, 10).replace(b"WARC-Date", b"X: " + b"y" * 200_000 + b"\r\nWARC-Date"),
        b"",
        b"\xff" * 300,
    ],
    ids=["negative length", "no length", "no WARC", "endless", "none", "binary"],
)
@pytest.mark.parametrize("container", ["plain", "gzipped"])
def test_broken_headers_cost_their_record(read, container, header):
    pages, damages = read(CONTAINERS[container]([*RECORDS[:2], header + b"<p>no message</p>\r\n\r\n", *RECORDS[3:]]))
    assert pages == [0, 1, 3, 4, 5]
    assert len(damages) == 1


@pytest.mark.parametrize(
    "content",
    [b"some text\n" * 50, gzip.compress(b"some text\n" * 50, mtime=0), b"", b"\x1f\x8b\x08", b"WARC/1.0\r\n"],
    ids=["text", "zipped text", "empty", "head of gzip", "head of WARC"],
)
def test_what_is_no_archive_is_one_damage(read, content):
    pages, damages = read(content)
    assert (pages, len(damages)) == ([], 1)


def test_an_archive_within_a_page_is_no_archive(read):
    """A record that holds a whole WARC file, as a crawl of an archive does: its length is right, so it counts."""
    inner = plain([warc_record(9)])
    records = [*RECORDS[:2], warc_record(8, inner), *RECORDS[3:]]
    assert read(plain(records)) == ([0, 1, 3, 4, 5], [])
    assert read(plain(records)[:-60]) == ([0, 1, 3, 4], read(plain(records)[:-60])[1])


def test_a_record_beyond_the_limit_is_too_large_and_the_next_one_read(tmp_path, run_ingest):
    path = tmp_path / "x.warc.gz"
    path.write_bytes(gzipped([RECORDS[0], warc_record(1, bytes(30_000_000)), *RECORDS[2:]])[:-9])
    source = {"kind": "warc", "name": "w", "paths": [str(path)]}
    _, output = run_ingest(source, limits={"page_bytes": 1_000_000})
    assert len(rows_of(output / "pages")) == 4
    dropped = {row["url"]: (row["reason"], row["detail"]) for row in rows_of(output / "dropped")}
    offset = len(gzipped(RECORDS[:1]))
    assert dropped["http://site.test/1"][0] == "too_large"
    assert dropped["http://site.test/1"][1].endswith(f"; x.warc.gz at byte {offset}")
    reason, detail = dropped["http://site.test/5"]
    assert reason == "damaged_archive" and "it ends early" in detail
    assert len(dropped) == 2


@pytest.mark.parametrize(
    "date",
    [b"garbage", b"", b"\xff\xfe", b"9999-12-31T23:59:59-23:00", b"0001-01-01T00:00:00+23:00", b"2024-13-45T99:99Z"],
)
def test_impossible_dates_cost_no_page(tmp_path, date):
    path = tmp_path / "x.warc"
    path.write_bytes(plain([RECORDS[0].replace(b"2024-01-02T03:04:05Z", date), RECORDS[1]]))
    assert [item.date for item in captures(str(path), LIMIT) if isinstance(item, Capture)] == [
        "",
        "2024-01-02T03:04:05Z",
    ]


@pytest.mark.parametrize(
    "modified",
    ["Fri, 31 Dec 9999 23:59:59 -2300", "1 Jan 99999999999999999999 00:00:00", "x" * 1000, "Tue, 99 Foo 2024"],
)
def test_impossible_changes_leave_the_date_of_the_fetch(modified):
    assert page_date(modified, "2024-01-02T03:04:05Z") == "2024-01-02T03:04:05Z"


@pytest.mark.parametrize("container", ["plain", "gzipped"])
def test_a_last_record_beyond_every_limit_is_a_page_that_is_too_large(tmp_path, container):
    path = tmp_path / "x.warc.gz"
    path.write_bytes(CONTAINERS[container]([RECORDS[0], warc_record(1, bytes(20_000_000))]))
    first, last = captures(str(path), LIMIT)
    assert isinstance(first, Capture) and first.body == BODIES[0]
    assert isinstance(last, Capture) and len(last.body) == LIMIT + 1


BODY = page(3)
CHUNKED = b"7\r\n" + BODY[:7] + b"\r\n%X;name=value\r\n" % (len(BODY) - 7) + BODY[7:] + b"\r\n"


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        ("Transfer-Encoding: chunked", CHUNKED + b"0\r\n\r\n", BODY),
        ("Transfer-Encoding: chunked", CHUNKED, BODY),
        ("Transfer-Encoding: chunked", BODY, BODY),
        ("Transfer-Encoding: chunked", CHUNKED[:-200], None),
        ("Transfer-Encoding: chunked", b"7\r\n" + BODY[:7] + b"\r\nzz\r\n" + BODY[7:], None),
        ("Transfer-Encoding: chunked", b"7\r\n" + BODY[:7] + b"\r\n-5\r\n" + BODY[7:], None),
        ("Content-Length: 7", BODY, BODY),
        ("Content-Length: 70000", BODY, BODY),
        ("Content-Encoding: gzip", gzip.compress(BODY, mtime=0), BODY),
        ("Content-Encoding: br", brotli.compress(BODY), BODY),
        ("Content-Encoding: zstd", pa.compress(BODY, "zstd", asbytes=True), BODY),
        ("Content-Encoding: gzip, br", brotli.compress(gzip.compress(BODY, mtime=0)), BODY),
        ("Transfer-Encoding: chunked\r\nContent-Encoding: gzip",
         b"%x\r\n" % len(gzip.compress(BODY, mtime=0)) + gzip.compress(BODY, mtime=0) + b"\r\n0\r\n\r\n", BODY),
    ],
)  # fmt: skip
def test_bodies_are_what_the_server_meant(tmp_path, headers, body, expected):
    block = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n{headers}\r\n\r\n".encode() + body
    path = tmp_path / "x.warc"
    path.write_bytes(warc_header(3, len(block)) + block + b"\r\n\r\n")
    (capture,) = captures(str(path), LIMIT)
    assert isinstance(capture, Capture)
    if expected is None:
        assert capture.truncated
    else:
        assert decoded_content(capture.body, capture.content_encoding, LIMIT) == expected


@pytest.mark.parametrize(
    ("block", "media_type", "body"),
    [
        (b"<!DOCTYPE html><p>x", "text/html", b"<!DOCTYPE html><p>x"),
        (b"HTTP/1.1 200 OK\r\n\r\n\n<html><p>x", "text/html", b"\n<html><p>x"),
        (b"HTTP/1.1 200 OK\r\n\r\nplain", "", b"plain"),
        (b"HTTP/1.1 200 OK\nContent-Type: text/html\n\nx", "text/html", b"x"),
        (b"HTTP/1.1", "", b""),
        (b"", "", b""),
    ],
)
def test_messages_without_headers(tmp_path, block, media_type, body):
    path = tmp_path / "x.warc"
    path.write_bytes(warc_header(3, len(block)) + block + b"\r\n\r\n")
    (capture,) = captures(str(path), LIMIT)
    assert isinstance(capture, Capture)
    assert (capture.media_type, capture.body) == (media_type, body)


@pytest.mark.parametrize("seed_container", [*CONTAINERS, "arc"])
def test_no_change_of_bytes_crashes_the_reader_or_loses_what_it_did_not_touch(tmp_path, seed_container):
    """Flips, cuts, insertions and splices. MODELMILL_FUZZ_EXAMPLES sets how many; by default a few."""
    records = arc_records() if seed_container == "arc" else RECORDS
    valid = CONTAINERS.get(seed_container, gzipped)(records)
    path = tmp_path / "x.warc.gz"

    @settings(
        max_examples=int(os.environ.get("MODELMILL_FUZZ_EXAMPLES", "25")),
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(
        st.integers(0, len(valid)),
        st.one_of(
            st.binary(max_size=40),
            st.tuples(st.integers(0, len(valid)), st.integers(0, 2000)).map(lambda cut: valid[cut[0] :][: cut[1]]),
        ),
        st.sampled_from([0, 1, 2, 30, 400, len(valid)]),
    )
    def check(position: int, inserted: bytes, removed: int) -> None:
        path.write_bytes(valid[:position] + inserted + valid[position + removed :])
        pages, damages = found_in(path)
        details = [damage.detail for damage in damages]
        assert len(set(details)) == len(details)
        is_indexed = seed_container in (*INDEXED, "plain", "arc")
        if is_indexed and "dictionary" not in seed_container:
            sizes = [len(CONTAINERS.get(seed_container, gzipped)([record])) for record in records]
            ends = [sum(sizes[: number + 1]) for number in range(len(sizes))]
            offset = len(records) - NUM_PAGES
            behind = valid[position + removed :]
            untouched = {
                number
                for number in ALL
                if ends[number + offset] <= position
                or ends[number + offset] - sizes[number + offset] >= len(valid) - len(behind)
            }
            assert untouched <= set(pages), (position, inserted, removed, damages)

    check()
