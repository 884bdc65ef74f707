"""Files on servers: range requests after broken connections, servers that ask to slow down, a named Common Crawl."""

import gzip
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from modelmill.tasks.errors import InputError, ResourceError
from modelmill.tasks.ingest.addresses import Reach
from modelmill.tasks.ingest.guarded_client import Download
from modelmill.tasks.ingest.remote import fetch, local_copy
from tests.tasks.ingest.archive_files import gzipped, warc_record
from tests.tasks.ingest.rows import rows_of, urls_of
from tests.tasks.ingest.web import Site, answer

CONTENT = bytes(range(256)) * 400
FAST = Download(attempts=3, backoff_seconds=0.001, longest_wait_seconds=0.01, read_seconds=2)
HERE = Reach.of(["127.0.0.1"])


def serving(content: bytes, *faults: str, tag: str = '"v1"') -> Callable[[BaseHTTPRequestHandler], None]:
    """A server of one file, as data.commoncrawl.org with range requests; each request meets the next fault."""
    left: Iterator[str] = iter(faults)

    def respond(handler: BaseHTTPRequestHandler) -> None:
        fault = next(left, "")
        if fault.isdecimal():
            answer(handler, "slow down", status=int(fault), Retry_After="0")
            return
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        is_same = handler.headers.get("If-Range", tag) == tag
        is_ranged = asked is not None and is_same and fault != "no ranges"
        start = int(asked[1]) if asked is not None and is_ranged else 0
        if start >= len(content):
            answer(handler, b"", status=416, Content_Range=f"bytes */{len(content)}")
            return
        handler.send_response(206 if is_ranged else 200)
        if is_ranged:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        body = content[start:]
        sent = body[: len(body) // 2] if fault in ("break", "short") else body
        handler.send_header("ETag", tag)
        handler.send_header("Content-Length", str(len(sent) if fault == "short" else len(body)))
        handler.end_headers()
        handler.wfile.write(sent)
        handler.close_connection = True

    return respond


@pytest.mark.parametrize(
    ("faults", "num_requests"),
    [
        ((), 1),
        (("break",), 2),
        (("break", "break", "break", "break", "break"), 6),
        (("503", "403"), 3),
        (("break", "429", "503", "break", "500"), 6),
        (("break", "no ranges"), 2),
        (("break", "short"), 3),
        (("short",), 2),
    ],
)
def test_a_file_arrives_whole_whatever_happens_on_the_way(site: Site, tmp_path: Path, faults, num_requests):
    site.pages = {"/file": serving(CONTENT, *faults)}
    fetch(f"http://{site.address}/file", tmp_path / "file", FAST, HERE)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert len(site.requests) == num_requests


def test_a_file_that_changed_meanwhile_is_fetched_anew(site: Site, tmp_path: Path):
    url, path = f"http://{site.address}/file", tmp_path / "file"
    site.pages = {"/file": serving(CONTENT, "break", "503", "503", "503")}
    with pytest.raises(ResourceError, match=r"no byte in 3 attempts.*HTTP status 503.*goes on where it ended"):
        fetch(url, path, FAST, HERE)
    assert 0 < path.stat().st_size < len(CONTENT)
    site.pages = {"/file": serving(CONTENT[::-1], tag='"v2"')}
    fetch(url, path, FAST, HERE)
    assert path.read_bytes() == CONTENT[::-1]


def test_what_an_earlier_run_left_is_not_fetched_again(site: Site, tmp_path: Path):
    asked = []
    serve = serving(CONTENT, "break", "503", "503", "503")

    def respond(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.headers.get("Range"))
        serve(handler)

    site.pages = {"/file": respond}
    url = f"http://{site.address}/file"
    with pytest.raises(ResourceError):
        fetch(url, tmp_path / "file", FAST, HERE)
    fetch(url, tmp_path / "file", FAST, HERE)
    fetch(url, tmp_path / "file", FAST, HERE)  # whole: the server says that nothing is behind it
    assert asked[-2:] == [f"bytes={len(CONTENT) // 2}-", f"bytes={len(CONTENT)}-"]
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_the_copy_is_gone_after_it_was_read(site: Site, tmp_path: Path):
    site.pages = {"/file": serving(CONTENT)}
    with local_copy(f"http://{site.address}/file", tmp_path / "downloads", FAST, HERE) as path:
        assert Path(path).read_bytes() == CONTENT
    assert list((tmp_path / "downloads").iterdir()) == []
    with pytest.raises(InputError, match=r"found no file at .*/gone: HTTP status 404"):
        fetch(f"http://{site.address}/gone", tmp_path / "gone", FAST, HERE)


def parquet(rows: list[dict[str, str]]) -> bytes:
    content = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), content)
    return content.getvalue()


def test_every_kind_of_file_goes_on_where_a_connection_broke(site: Site, run_ingest, tmp_path: Path):
    rows = [{"id": f"r{number}", "text": f"row {number} " * 50} for number in range(3)]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    page = b"<title>T</title><p>" + b"A sentence of a page. " * 40
    contents = {"jsonl": lines, "jsonl.gz": gzip.compress(lines), "parquet": parquet(rows), "html": page, "text": lines}
    site.pages = {f"/{name}": serving(content, "break", "503", "short") for name, content in contents.items()}
    address = f"http://{site.address}"
    sources = [
        {"kind": kind, "name": name, "paths": [f"{address}/{name}"], "download": FAST.model_dump()}
        for name in contents
        for kind in [name.removesuffix(".gz")]
    ]
    result, output = run_ingest(*sources, extractor="resiliparse")
    assert Counter(row["source"] for row in rows_of(output / "pages")) == {
        "jsonl": 3,
        "jsonl.gz": 3,
        "parquet": 3,
        "html": 1,
        "text": 1,
    }
    assert result.dropped == {}
    assert len(site.requests) == 4 * len(contents)
    assert list((tmp_path / "run" / "downloads").iterdir()) == []


def test_of_a_page_above_the_limit_no_more_than_that_is_fetched(site: Site, run_ingest, tmp_path: Path):
    content = b"x" * 4_000_000
    site.pages = {"/page": serving(content), "/short": serving(b"A page.")}
    path = tmp_path / "page"
    fetch(f"http://{site.address}/page", path, FAST, HERE, most_bytes=1001)
    assert 1001 <= path.stat().st_size < len(content)
    paths = [f"http://{site.address}/{name}" for name in ("page", "short")]
    result, _ = run_ingest({"kind": "text", "name": "pages", "paths": paths}, limits={"page_bytes": 1000})
    assert (result.rows_out, result.dropped) == (1, {"too_large": 1})
    assert list((tmp_path / "run" / "downloads").iterdir()) == []


def crawl_paths(number: int) -> str:
    return f"crawl-data/CC-MAIN-2025-30/segments/1/warc/CC-MAIN-2025-{number:05d}.warc.gz"


@pytest.fixture
def common_crawl(site: Site) -> Site:
    """Four WARC files of two pages each, under the paths of data.commoncrawl.org, on a server that is often busy."""
    paths = "".join(f"{crawl_paths(number)}\n" for number in range(4))
    site.pages = {"/crawl-data/CC-MAIN-2025-30/warc.paths.gz": serving(gzip.compress(paths.encode()), "503", "break")}
    for number in range(4):
        content = gzipped([warc_record(2 * number), warc_record(2 * number + 1)])
        site.pages[f"/{crawl_paths(number)}"] = serving(content, "break", "503", "short", "break")
    return site


def source(prefix: str, **fields: object) -> dict[str, object]:
    found = {"kind": "common_crawl", "name": "cc", "crawl": "CC-MAIN-2025-30", "files": 2, "prefix": prefix}
    return found | {"download": FAST.model_dump()} | fields


def test_a_named_crawl_is_read_from_a_server_that_breaks_connections(common_crawl, run_ingest, tmp_path):
    result, output = run_ingest(source(f"http://{common_crawl.address}/"))
    assert urls_of(output) == [f"http://site.test/{number}" for number in range(4)]
    assert result.dropped == {}
    assert list((tmp_path / "run" / "downloads").iterdir()) == []
    _, output = run_ingest(source(f"http://{common_crawl.address}/", first_file=3, files=9), name="last")
    assert urls_of(output) == [f"http://site.test/{number}" for number in (6, 7)]


def test_a_mirror_may_be_a_folder_and_a_crawl_that_is_not_there_is_named(run_ingest, tmp_path):
    for number in range(2):
        path = tmp_path / "mirror" / crawl_paths(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzipped([warc_record(number)]))
    listing = tmp_path / "mirror" / "crawl-data" / "CC-MAIN-2025-30" / "warc.paths.gz"
    listing.write_bytes(gzip.compress("\n".join(map(crawl_paths, range(2))).encode()))
    _, output = run_ingest(source(f"{tmp_path}/mirror/", files=1))
    assert urls_of(output) == ["http://site.test/0"]
    with pytest.raises(InputError, match=r"found no file at .*/CC-MAIN-2025-31/warc.paths.gz"):
        run_ingest(source(f"{tmp_path}/mirror/", crawl="CC-MAIN-2025-31"), name="other")
    listing.write_bytes(b"\x1f\x8bdamaged")
    with pytest.raises(InputError, match=r"the path list .* cannot be read"):
        run_ingest(source(f"{tmp_path}/mirror/"), name="damaged")
