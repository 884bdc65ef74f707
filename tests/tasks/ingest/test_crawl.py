"""The crawler against a real server: who may be visited, how often, what is kept, and what survives an interruption."""

import itertools
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modelmill.tasks.errors import InputError, RecipeError
from tests.tasks.ingest.rows import reasons_of, rows_of, urls_of
from tests.tasks.ingest.web import Site, answer, responding

FAST = {"requests_per_second": 1000, "connections_per_host": 4, "backoff_seconds": 0.01, "read_seconds": 0.5}


def crawl_source(site: Site, **changes: object) -> dict[str, object]:
    politeness = FAST | changes.pop("politeness", {})  # type: ignore[operator]
    source = {
        "kind": "crawl",
        "name": "web",
        "start": ["http://site.test/"],
        "pages": 100,
        "allow_hosts": ["site.test"],
        "connect_to": {"site.test": site.address},
        "politeness": politeness,
    }
    return source | changes


def test_links_are_followed_to_the_depth_and_each_page_fetched_once(site, run_ingest):
    site.pages = {
        "/": site.link("/a", "a#part", "http://site.test:80/a?", "/b?y=2&x=1", "/b?x=1&y=2", "mailto:x@site.test"),
        "/a": site.link("/deep", "http://elsewhere.test/"),
        "/b?x=1&y=2": site.link("/"),
        "/deep": site.link("/deeper"),
    }
    result, output = run_ingest(crawl_source(site, depth=2))
    assert urls_of(output) == [f"http://site.test{path}" for path in ("/", "/a", "/b?x=1&y=2", "/deep")]
    assert sorted(site.requests) == sorted(
        f"site.test{path}" for path in ("/robots.txt", "/", "/a", "/b?x=1&y=2", "/deep")
    )
    assert (result.rows_in, result.rows_out, result.dropped) == (4, 4, {})


def test_the_page_limit_cuts_a_level_the_same_way_each_time(site, run_ingest):
    site.pages = {"/": site.link(*(f"/{number}" for number in range(20)))}
    site.pages |= {f"/{number}": site.link() for number in range(20)}
    _, first = run_ingest(crawl_source(site, pages=8), name="first")
    _, second = run_ingest(crawl_source(site, pages=8, batch_pages=3), name="second")
    assert len(urls_of(first)) == 8
    assert urls_of(first) == urls_of(second)


def test_robots_txt_is_obeyed(site, run_ingest):
    site.pages = {
        "/": site.link("/open", "/closed/page", "/closed/but/open"),
        "/open": site.link(),
        "/closed/but/open": site.link(),
        "/robots.txt": responding(
            "User-agent: *\nDisallow: /\n\nUser-agent: modelmill\nDisallow: /closed\nAllow: /closed/but\n",
            content_type="text/plain",
        ),
    }
    _, output = run_ingest(crawl_source(site))
    assert reasons_of(output) == {"http://site.test/closed/page": "robots"}
    assert "site.test/closed/page" not in site.requests


def test_a_host_whose_robots_txt_fails_is_left_alone(site, run_ingest):
    site.pages = {"/": site.link(), "/robots.txt": responding(status=503)}
    with pytest.raises(InputError, match=r"1 robots_unreachable.*Expected at least one page"):
        run_ingest(crawl_source(site, politeness={"attempts": 2}))


def test_requests_keep_the_distance_that_the_host_asks_for(site, run_ingest):
    times = []
    site.pages = {"/": site.link("/1", "/2", "/3"), "/robots.txt": responding("User-agent: *\nCrawl-delay: 0.2\n")}
    site.pages |= {
        f"/{n}": lambda handler: (times.append(time.monotonic()), answer(handler, "<p>x")) for n in (1, 2, 3)
    }
    run_ingest(crawl_source(site))
    assert len(times) == 3
    assert min(later - earlier for earlier, later in itertools.pairwise(times)) > 0.15


def test_redirects_are_followed_hop_by_hop_and_loops_end(site, run_ingest):
    site.pages = {
        "/": site.link("/moved", "/loop", "/away"),
        "/moved": responding(status=301, Location="/hop"),
        "/hop": responding(status=302, Location="http://site.test/new#x"),
        "/new": site.link(),
        "/loop": responding(status=302, Location="/pool"),
        "/pool": responding(status=302, Location="/loop"),
        "/away": responding(status=302, Location="http://127.0.0.1:9/secret"),
    }
    _, output = run_ingest(crawl_source(site))
    assert urls_of(output) == ["http://site.test/", "http://site.test/new"]
    assert set(reasons_of(output).values()) == {"redirect"}


def test_busy_and_broken_answers_are_tried_again(site, run_ingest):
    tries: dict[str, int] = {}

    def failing(times: int, failure):
        def respond(handler):
            tries[handler.path] = tries.get(handler.path, 0) + 1
            failure(handler) if tries[handler.path] <= times else answer(handler, "<p>at last</p>")

        return respond

    site.pages = {
        "/": site.link("/busy", "/error", "/cut", "/gone", "/down"),
        "/busy": failing(2, lambda handler: answer(handler, "wait", status=429, Retry_After="0")),
        "/error": failing(1, lambda handler: answer(handler, "oh", status=500)),
        "/cut": failing(1, lambda handler: handler.connection.close()),
        "/down": failing(99, lambda handler: answer(handler, "no", status=503)),
    }
    _, output = run_ingest(crawl_source(site, politeness={"attempts": 3}))
    assert urls_of(output) == [f"http://site.test{path}" for path in ("/", "/busy", "/cut", "/error")]
    assert tries == {"/busy": 3, "/error": 2, "/cut": 2, "/down": 3}
    assert reasons_of(output) == {"http://site.test/gone": "http_status", "http://site.test/down": "http_status"}


def test_pages_that_cost_too_much_are_dropped_with_a_reason(site, run_ingest):
    def endless(handler):
        handler.send_response(200)
        handler.send_header("Content-Type", "text/html")
        handler.end_headers()
        for _ in range(100):
            handler.wfile.write(b"<p>" + b"x" * 10_000)

    def slow(handler):
        handler.send_response(200)
        handler.send_header("Content-Type", "text/html")
        handler.end_headers()
        time.sleep(1)

    site.pages = {
        "/": site.link("/endless", "/slow", "/image", "/declared"),
        "/endless": endless,
        "/slow": slow,
        "/image": responding(b"\x89PNG", content_type="image/png"),
        "/declared": responding("x" * 200_000),
    }
    source = crawl_source(site, politeness={"read_seconds": 0.2, "attempts": 1})
    _, output = run_ingest(source, limits={"page_bytes": 100_000})
    assert {url.rpartition("/")[2]: reason for url, reason in reasons_of(output).items()} == {
        "endless": "too_large",
        "slow": "timeout",
        "image": "content_type",
        "declared": "too_large",
    }


def test_private_addresses_are_refused_unless_the_recipe_allows_the_host(site, run_ingest):
    site.pages = {"/": site.link()}
    port = site.address.partition(":")[2]
    source = crawl_source(site, start=[f"http://localhost:{port}/"], connect_to={}, allow_hosts=[])
    with pytest.raises(InputError, match="1 private_address"):
        run_ingest(source, name="refused")
    assert site.requests == []
    _, output = run_ingest(source | {"allow_hosts": ["localhost"]}, name="allowed")
    assert urls_of(output) == [f"http://localhost:{port}/"]


def test_dates_come_from_last_modified_unless_it_is_impossible(site, run_ingest):
    site.pages = {
        "/": site.link("/old", "/future"),
        "/old": responding("<p>a", Last_Modified="Tue, 02 Jan 2018 03:04:05 GMT"),
        "/future": responding("<p>b", Last_Modified="Tue, 02 Jan 2999 03:04:05 GMT"),
    }
    _, output = run_ingest(crawl_source(site))
    dates = {row["url"].rpartition("/")[2]: row["date"] for row in rows_of(output / "pages")}
    assert dates["old"] == "2018-01-02T03:04:05Z"
    assert dates["future"][:2] == "20" and dates["future"] < "2999"


def test_nofollow_is_respected(site, run_ingest):
    site.pages = {
        "/": '<p>x <a rel="nofollow" href="/no">no</a> <a href="/meta">meta</a>',
        "/meta": '<meta name="robots" content="noindex, nofollow"><p>y <a href="/never">never</a>',
    }
    _, output = run_ingest(crawl_source(site))
    assert urls_of(output) == ["http://site.test/", "http://site.test/meta"]


def test_a_start_that_is_no_url_is_a_recipe_error(site, run_ingest):
    with pytest.raises(RecipeError, match=r"source 'web'.*found 'ftp://site.test/'"):
        run_ingest(crawl_source(site, start=["ftp://site.test/"]))


_CHILD = """
import asyncio, json, sys
from pathlib import Path
from modelmill.tasks.ingest.sources import CrawlSource
from modelmill.tasks.ingest.crawl import CrawlFolders, crawl
from modelmill.tasks.journal import Journal
folder = Path(sys.argv[2])
crawl(CrawlSource(**json.loads(sys.argv[1])), 1_000_000, CrawlFolders(folder / "output/warc", folder / "crawl"),
      Journal(folder / "journal.jsonl"))
"""


def test_a_killed_crawl_goes_on_without_fetching_finished_batches_again(site, run_ingest, tmp_path: Path):
    site.pages = {"/": site.link(*(f"/{number}" for number in range(12)))}
    site.pages |= {
        f"/{number}": responding(f"<p>page {number}", Last_Modified="Tue, 02 Jan 2018 03:04:05 GMT")
        for number in range(12)
    }
    source = crawl_source(site, batch_pages=3, politeness={"requests_per_second": 20, "connections_per_host": 1})
    _, whole = run_ingest(source, name="whole")
    site.requests.clear()
    child = subprocess.Popen([sys.executable, "-c", _CHILD, json.dumps(source), str(tmp_path / "cut")])
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "cut" / "crawl").glob("*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    child.kill()
    child.wait()
    finished = [json.loads(path.read_text()) for path in (tmp_path / "cut" / "crawl").glob("*.json")]
    done = {outcome["url"] for report in finished for outcome in report["outcomes"]}
    assert 3 < len(done) < 13
    site.requests.clear()
    _, resumed = run_ingest(source, name="cut")
    assert not done & {f"http://{request}" for request in site.requests}
    first, second = ({row["url"]: row for row in rows_of(out / "pages")} for out in (whole, resumed))
    for rows in (first, second):
        rows.pop("http://site.test/")  # it has no Last-Modified
    assert first == second
