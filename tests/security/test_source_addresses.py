# ruff: noqa: F401, F811 (fixtures of another folder)
"""Sources on servers: where redirects, path lists and data sets of others may lead, and where not."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from modelmill.tasks.errors import InputError, ResourceError
from modelmill.tasks.ingest.addresses import Reach
from modelmill.tasks.ingest.config import Config
from modelmill.tasks.ingest.guarded_client import Download
from modelmill.tasks.ingest.remote import fetch
from tests.tasks.ingest.archive_files import gzipped, warc_record
from tests.tasks.ingest.conftest import run_ingest, site
from tests.tasks.ingest.rows import rows_of
from tests.tasks.ingest.web import Site, answer, responding

FAST = {"attempts": 2, "backoff_seconds": 0.001, "longest_wait_seconds": 0.01, "read_seconds": 2}
SECRET_PAGE = json.dumps({"text": "What only this machine may read."})
# Spellings of loopback that a URL may use; the first is put together with the port of the server inside.
SPELLINGS = [
    "127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0.0.0.0", "[::ffff:127.0.0.1]",
    "LOCALHOST",
]  # fmt: skip
KINDS = {"warc": "a.warc.gz", "wet": "a.wet.gz", "jsonl": "a.jsonl", "parquet": "a.parquet", "html": "a.html",
         "text": "a.txt"}  # fmt: skip


@pytest.fixture
def inside() -> Iterator[Site]:
    """A server that only this machine should reach."""
    server = Site()
    for path in ("/secret", "/latest/meta-data/"):
        server.pages[path] = responding(SECRET_PAGE, content_type="application/json")
    yield server
    server.close()


def redirecting(target: str, status: int = 302):
    return responding("elsewhere", status=status, Location=target)


def source(kind: str, address: str, **fields: object) -> dict[str, object]:
    return {"kind": kind, "name": kind, "paths": [address], "download": FAST} | fields


def refused(address: str, reach: Reach, folder: Path) -> str:
    with pytest.raises(InputError) as error:
        fetch(address, folder / "file", Download.model_validate(FAST), reach)
    assert not (folder / "file").exists()
    return str(error.value)


@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_of_source_follows_a_redirect_to_this_machine(site, inside, run_ingest, kind):
    site.pages[f"/{KINDS[kind]}"] = redirecting(f"http://{inside.address}/secret")
    with pytest.raises(InputError, match="allow_hosts"):
        run_ingest(source(kind, f"http://{site.address}/{KINDS[kind]}"))
    assert inside.requests == []


@pytest.mark.parametrize("kind", ["path list", "prefix of a path list", "common crawl", "data set"])
def test_neither_do_lists_and_data_sets(site, inside, run_ingest, kind):
    here = f"http://{site.address}"
    elsewhere = redirecting(f"http://{inside.address}/secret")
    site.pages |= {
        "/a.paths": elsewhere if kind == "path list" else responding("x.warc.gz\n"),
        "/x.warc.gz": elsewhere,
        "/crawl-data/CC-MAIN-2025-30/warc.paths.gz": elsewhere,
        "/rows.jsonl": elsewhere,
    }
    crawl = {"kind": "common_crawl", "name": "cc", "crawl": "CC-MAIN-2025-30", "files": 1, "prefix": f"{here}/"}
    rows = {"kind": "dataset", "name": "rows", "path": "json", "data_files": [f"{here}/rows.jsonl"]}
    asked = {
        "common crawl": crawl | {"download": FAST},
        "data set": rows | {"download": FAST},
    }.get(kind, source("warc", f"{here}/a.paths", prefix=f"{here}/"))
    with pytest.raises(InputError, match="allow_hosts"):
        run_ingest(asked)
    assert inside.requests == []


@pytest.mark.parametrize("host", SPELLINGS)
def test_no_spelling_of_loopback_gets_through(site, inside, tmp_path, host):
    port = inside.address.partition(":")[2]
    site.pages["/file"] = redirecting(f"http://{host}:{port}/secret")
    message = refused(f"http://{site.address}/file", Reach.of((), [("127.0.0.1", int(site.address[10:]))]), tmp_path)
    assert "redirect" in message or "private" in message
    assert inside.requests == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_every_hop_is_checked_and_the_recipe_may_allow_one(site, inside, run_ingest, status):
    site.pages |= {
        "/a.jsonl": redirecting("/b.jsonl", status),
        "/b.jsonl": redirecting(f"http://localhost:{inside.address.partition(':')[2]}/secret", status),
    }
    asked = source("jsonl", f"http://{site.address}/a.jsonl")
    with pytest.raises(InputError, match=r"add localhost to the source's `allow_hosts`"):
        run_ingest(asked)
    assert inside.requests == []
    result, output = run_ingest(asked | {"allow_hosts": ["localhost"]}, name="allowed")
    assert result.rows_out == 1 and rows_of(output / "pages")[0]["text"] == "What only this machine may read."


@pytest.mark.parametrize(
    "target",
    ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1:6379/_INFO", "data:text/plain,x", "",
     "unix:/run/docker.sock"],
)  # fmt: skip
def test_redirects_to_anything_but_a_web_server_end_there(site, tmp_path, target):
    site.pages["/file"] = redirecting(target)
    refused(f"http://{site.address}/file", Reach.of(["127.0.0.1"]), tmp_path)
    assert site.requests == ["127.0.0.1/file"]


def test_endless_redirects_end(site, tmp_path):
    site.pages["/file"] = redirecting("/file")
    assert "redirects more than 10 times" in refused(f"http://{site.address}/file", Reach.of(["127.0.0.1"]), tmp_path)
    assert len(site.requests) == 11


def test_proxies_and_passwords_of_the_environment_are_not_used(site, inside, tmp_path, monkeypatch):
    given: list[str | None] = []

    def page(handler):
        given.append(handler.headers["Authorization"])
        answer(handler, "text")

    site.pages["/file"] = page
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://{inside.address}")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    fetch(f"http://{site.address}/file", tmp_path / "file", Download.model_validate(FAST), Reach.of(["127.0.0.1"]))
    assert given == [None] and inside.requests == []


def test_a_password_goes_to_no_other_server(site, inside, tmp_path):
    given: dict[str, str | None] = {}

    def page(name, next_one):
        def answered(handler):
            given[name] = handler.headers["Authorization"]
            next_one(handler)

        return answered

    site.pages |= {
        "/a": page("first", redirecting("/b")),
        "/b": page("same server", redirecting(f"http://{inside.address}/c")),
    }
    inside.pages["/c"] = page("other server", responding("text"))
    fetch(f"http://me:mine@{site.address}/a", tmp_path / "file", Download.model_validate(FAST), Reach.of(["127.0.0.1"]))
    assert given == {"first": "Basic bWU6bWluZQ==", "same server": "Basic bWU6bWluZQ==", "other server": None}


@pytest.mark.parametrize("is_told", [True, False])
def test_a_file_that_does_not_end_is_not_fetched(site, tmp_path, is_told):
    def endless(handler):
        handler.send_response(200)
        if is_told:
            handler.send_header("Content-Length", str(10**12))
        handler.end_headers()
        for _ in range(200):
            handler.wfile.write(b"x" * 65_536)

    site.pages["/file"] = endless
    settings = Download.model_validate(FAST | {"max_gigabytes": 0.001})
    with pytest.raises(InputError, match="max_gigabytes"):
        fetch(f"http://{site.address}/file", tmp_path / "file", settings, Reach.of(["127.0.0.1"]))
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize(
    "line",
    ["../../etc/passwd", "a/../../b.warc", "file:///etc/passwd", "/etc/passwd", "a${MIRROR}b", "@evil.test/x",
     ".evil.test/x", "s3://bucket/x"],
)  # fmt: skip
@pytest.mark.parametrize("prefix", ["folder", "server", "bare server", ""])
def test_no_line_of_a_path_list_leads_out_of_the_prefix(site, run_ingest, tmp_path, line, prefix):
    """Some lines are paths below the prefix, which are not there."""
    (tmp_path / "data").mkdir()
    site.pages["/a.paths"] = responding(f"{line}\n")
    places = {"folder": f"{tmp_path}/data/", "server": f"http://{site.address}/", "bare server": "http://127.0.0.1"}
    asked = source("warc", f"http://{site.address}/a.paths", prefix=places.get(prefix, ""))
    if (prefix, line) == ("", "s3://bucket/x"):
        return  # a bucket is what such a list is for
    with pytest.raises(ResourceError if (prefix, line) == ("bare server", "/etc/passwd") else InputError):
        run_ingest(asked)
    below = {f"127.0.0.1/{line.lstrip('/')}"} if prefix == "server" else set()
    assert set(site.requests) <= {"127.0.0.1/a.paths"} | below


def test_a_list_of_other_servers_reaches_public_ones_only(site, inside, run_ingest):
    inside.pages["/a.warc.gz"] = responding(gzipped([warc_record(0)]))
    site.pages["/a.paths"] = responding(f"http://{inside.address}/a.warc.gz\n")
    asked = source("warc", f"http://{site.address}/a.paths", prefix="")
    with pytest.raises(InputError, match="allow_hosts"):
        run_ingest(asked)
    assert inside.requests == []
    assert run_ingest(asked | {"allow_hosts": ["127.0.0.1"]}, name="allowed")[0].rows_out == 1


def test_a_path_list_that_inflates_without_end_is_refused(site, run_ingest):
    site.pages["/a.paths.gz"] = responding(gzip.compress(b"x" * 50_000_000))
    with pytest.raises(InputError, match="4000 bytes in line 1"):
        run_ingest(source("warc", f"http://{site.address}/a.paths.gz"))


@pytest.mark.parametrize(
    "address",
    ["ftp://host/a.jsonl", "file:///etc/passwd", "github://a:b@c/x", "zip://x::http://127.0.0.1/a.zip",
     "simplecache::http://127.0.0.1/a", "HTTP+x://h/a", "http://", "http://${HOST}/a", "https://h/${name}",
     "https://h/${A-B}", "https://h:port/a", "s3://b/a::http://127.0.0.1/"],
)  # fmt: skip
def test_an_address_that_is_read_by_none_of_our_rules_is_refused_in_the_recipe(address):
    with pytest.raises(ValidationError):
        Config.model_validate({"sources": [source("jsonl", address)]})


def test_a_data_set_names_no_files_but_its_own(tmp_path, inside, run_ingest):
    folder = tmp_path / "set"
    folder.mkdir()
    (tmp_path / "private.jsonl").write_text(SECRET_PAGE)
    outside = {"local": str(tmp_path / "private.jsonl"), "above": "../private.jsonl"}
    for name, path in outside.items():
        (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files: {path}\n---\n")
        with pytest.raises(InputError):
            run_ingest({"kind": "dataset", "name": "set", "path": str(folder)}, name=name)
    (folder / "README.md").unlink()
    (folder / "train.jsonl").write_text(SECRET_PAGE)
    result, _ = run_ingest({"kind": "dataset", "name": "set", "path": str(folder)}, name="own")
    assert result.rows_out == 1
    with pytest.raises(ValidationError, match="data_files"):
        Config.model_validate({"sources": [{"kind": "dataset", "name": "x", "path": f"http://{inside.address}/x"}]})
