"""Every kind of source through the stage, bad input, the key's part from outside, and equal bytes for any pool."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from modelmill.tasks.errors import InputError, RecipeError
from modelmill.tasks.ingest.config import Config, external_digests
from modelmill.tasks.ingest.schema import PAGE_SCHEMA
from tests.tasks.ingest.rows import digests_of, reasons_of, rows_of, urls_of
from tests.tasks.ingest.test_warc import exchange, write_warc

HTML = "<html><head><title>T</title></head><body><p>Enough words for a page {}.</p></body></html>"


def source(kind: str, *paths: Path | str, **fields: object) -> dict[str, object]:
    return {"kind": kind, "name": kind, "paths": [str(path) for path in paths]} | fields


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """One small input of every kind."""
    folder = tmp_path / "in"
    (folder / "html" / "sub").mkdir(parents=True)
    (folder / "text").mkdir()
    for number in range(5):
        write_warc(folder / f"{number}.warc.gz", [exchange(number)], {}, {})
        (folder / "html" / "sub" / f"{number}.html").write_text(HTML.format(number))
        (folder / "text" / f"{number}.txt").write_text(f"Document {number}\n\nwith two paragraphs.")
    rows = [{"id": f"r{number}", "text": f"row {number}", "url": f"http://rows.test/{number}"} for number in range(5)]
    lines = "\n".join(json.dumps(row) for row in rows)
    (folder / "rows.jsonl").write_text(lines)
    (folder / "rows.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    return folder


def wet(path: Path) -> Path:
    text = "Plain text of a page.\n"
    head = (
        "WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Target-URI: http://wet.test/\r\nWARC-Date: 2024-01-02T03:04:05Z\r\n"
        f"WARC-Record-ID: <urn:uuid:1>\r\nContent-Type: text/plain\r\nContent-Length: {len(text)}\r\n\r\n"
    )
    path.write_bytes(gzip.compress(f"{head}{text}\r\n\r\n".encode()))
    return path


def all_sources(files: Path) -> list[dict[str, object]]:
    return [
        source("warc", files / "*.warc.gz"),
        source("wet", wet(files / "a.wet.gz")),
        source("html", files / "html", base_url="http://html.test/"),
        source("text", files / "text"),
        source("jsonl", files / "rows.jsonl"),
        source("jsonl", files / "rows.jsonl.gz", name="zipped"),
        source("parquet", files / "rows.parquet"),
        {"kind": "dataset", "name": "set", "path": "json", "data_files": [str(files / "rows.jsonl")], "max_rows": 3},
    ]


def test_every_kind_of_source_becomes_pages(files, run_ingest):
    result, output = run_ingest(*all_sources(files))
    rows = rows_of(output / "pages")
    assert pq.read_schema(output / "pages" / "part-00000.parquet").equals(PAGE_SCHEMA)
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["source"]] = counts.get(row["source"], 0) + 1
    assert counts == {
        "warc": 5, "wet": 1, "html": 5, "text": 5, "jsonl": 5, "zipped": 5, "parquet": 5, "set": 3
    }  # fmt: skip
    assert all(value is not None for row in rows for value in row.values())
    by_url = {row["url"]: row for row in rows if row["source"] != "warc"}
    assert by_url["http://html.test/sub/3.html"]["title"] == "T"
    assert by_url["4.txt"]["text"] == "Document 4\n\nwith two paragraphs."
    assert by_url["http://wet.test/"]["date"] == "2024-01-02T03:04:05Z"
    assert (result.rows_in, result.rows_out, result.dropped) == (34, 34, {})
    assert "| parquet | parquet | 5 | 5 |" in result.summary


def test_pages_are_the_same_bytes_for_one_worker_and_two(files, run_ingest):
    _, one = run_ingest(*all_sources(files)[:7], workers=1, name="one", shard_pages=2)
    _, two = run_ingest(*all_sources(files)[:7], workers=2, name="two", shard_pages=2)
    assert digests_of(one / "pages") == digests_of(two / "pages")
    assert len(digests_of(one / "pages")) > 10


def test_bad_rows_are_counted_by_reason(tmp_path, run_ingest):
    path = tmp_path / "mixed.jsonl"
    lines = [
        '{"text": "fine"}',
        "{broken",
        "[1]",
        '{"text": ""}',
        '{"text": 3}',
        '{"other": "x"}',
        "",
        '{"text": "ok"}',
    ]
    path.write_text("\n".join(lines))
    result, _ = run_ingest(source("jsonl", path))
    assert (result.rows_in, result.rows_out) == (7, 2)
    assert result.dropped == {"empty_text": 3, "invalid_row": 2}


def test_halves_of_surrogate_pairs_cost_no_more_than_themselves(tmp_path, run_ingest):
    """JSON can spell them, and no file can hold them: one such row ended the stage."""
    path = tmp_path / "halves.jsonl"
    path.write_text('{"text": "a \\ud800 b", "title": "\\udfff", "url": "\\udc00"}\n{"text": "fine"}\n')
    for columns in ({}, {"html": "text", "text": ""}):
        result, output = run_ingest(source("jsonl", path, columns=columns), name=f"out-{len(columns)}")
        assert result.rows_out == 2
        assert rows_of(output / "pages")[0]["text"] == "a ? b"


def test_parquet_rows_without_text_are_dropped_and_html_columns_extracted(tmp_path, run_ingest):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"text": ["some", "", None, "  "], "page": [HTML.format(n) for n in range(4)]}), path)
    result, _ = run_ingest(source("parquet", path), name="text")
    assert (result.rows_out, result.dropped) == (1, {"empty_text": 3})
    result, output = run_ingest(source("parquet", path, columns={"html": "page"}), name="html")
    assert result.rows_out == 4
    assert "Enough words for a page 2." in [row["text"] for row in rows_of(output / "pages")]


@pytest.mark.parametrize("suffix", ["parquet", "jsonl.gz", "warc.gz"])
def test_damaged_files_are_counted_and_the_others_read(files, run_ingest, suffix):
    kind = suffix.partition(".")[0]
    good = files / ("0.warc.gz" if kind == "warc" else f"rows.{suffix}")
    bad = files / f"bad.{suffix}"
    bad.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    result, _ = run_ingest(source(kind, good, bad))
    assert result.rows_out >= 1
    assert set(result.dropped) <= {"damaged_file", "damaged_archive", "truncated"}
    assert sum(result.dropped.values()) >= 1


def test_empty_archives_are_damage_and_nothing_left_is_an_error(tmp_path, run_ingest):
    (tmp_path / "empty.warc.gz").write_bytes(b"")
    with pytest.raises(InputError, match=r"no page is left.*warc: 1 read, 1 damaged_archive.*then correct"):
        run_ingest(source("warc", tmp_path / "empty.warc.gz"))
    assert not (tmp_path / "run" / "output" / "pages").exists()


@pytest.mark.parametrize("kind", ["warc", "wet", "html", "text", "jsonl", "parquet"])
def test_a_missing_file_is_named(tmp_path, run_ingest, kind):
    with pytest.raises(InputError, match=r"found no file at .*/gone\*.*correct `paths`"):
        run_ingest(source(kind, tmp_path / "gone*"))


def test_pages_in_a_warc_that_are_no_pages_have_reasons(tmp_path, run_ingest):
    path = tmp_path / "mixed.warc.gz"
    odd = [exchange(number) for number in range(5)]
    odd[1].status = 404
    odd[2].headers = [(b"Content-Type", b"image/png")]
    odd[3].body = b"<div>" * 100_000
    odd[4].body = b"x" * 3_000_000
    write_warc(path, odd, {}, {})
    _, output = run_ingest(source("warc", path), limits={"page_bytes": 2_000_000}, extractor="resiliparse")
    assert {url[-1]: reason for url, reason in reasons_of(output).items()} == {
        "1": "http_status", "2": "content_type", "3": "too_deep", "4": "too_large"
    }  # fmt: skip


def test_a_path_list_names_archives_below_its_prefix(files, run_ingest):
    (files / "warc.paths.gz").write_bytes(gzip.compress(b"0.warc.gz\n1.warc.gz\n2.warc.gz\n"))
    lists = source("warc", files / "warc.paths.gz", prefix=f"{files}/", max_files=2)
    _, output = run_ingest(lists)
    assert urls_of(output) == ["http://site.test/0", "http://site.test/1"]


def test_archives_are_read_over_http(files, run_ingest, site):
    from tests.tasks.ingest.web import responding

    site.pages = {"/0.warc.gz": responding((files / "0.warc.gz").read_bytes(), content_type="application/gzip")}
    _, output = run_ingest(source("warc", f"http://{site.address}/0.warc.gz"))
    assert urls_of(output) == ["http://site.test/0"]
    with pytest.raises(InputError, match=r"found no file at http://127.0.0.1:\d+/gone.warc.gz"):
        run_ingest(source("warc", f"http://{site.address}/gone.warc.gz"), name="gone")


def digests(*sources: dict[str, object]) -> dict[str, str]:
    return external_digests(Config.model_validate({"sources": sources}))


def test_the_key_depends_on_names_and_contents_not_on_folders(files, tmp_path):
    before = digests(source("text", files / "text"))
    moved = tmp_path / "elsewhere"
    (files / "text").rename(moved)
    assert digests(source("text", moved)) == before == digests(source("text", moved / "*.txt"))
    (moved / "0.txt").write_text("changed")
    changed = digests(source("text", moved))
    assert [name for name in before if before[name] != changed[name]] == ["text/0.txt"]


def test_remote_files_enter_the_key_by_address():
    url = "https://example.com/a.warc.gz"
    assert digests(source("warc", url)) == {f"warc/{url}": url}
    lists = digests(source("warc", "s3://bucket/warc.paths.gz", prefix="s3://bucket/"))
    assert lists["warc/prefix"] == "s3://bucket/"


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([{"kind": "jsonl", "name": "a", "paths": ["x"], "colums": {}}], "Extra inputs are not permitted"),
        ([{"kind": "csv", "name": "a", "paths": ["x"]}], "does not match any of the expected tags"),
        ([source("text", "a"), source("text", "b")], "two sources are named text"),
        ([], "at least 1 item"),
    ],
)
def test_a_wrong_recipe_is_refused(sources, message):
    with pytest.raises(ValidationError, match=message):
        Config.model_validate({"sources": sources})


def test_a_package_that_is_not_installed_is_named():
    with pytest.raises(RecipeError, match=r"'no_such_package', which is not installed"):
        digests({"kind": "documentation", "name": "d", "pages": 5, "packages": ["no_such_package"]})
