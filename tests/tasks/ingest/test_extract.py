"""Extraction: what good pages read like, and what hostile ones cost."""

import gzip
import os
import time

import brotli
import pyarrow as pa
import pytest

from modelmill.tasks.ingest.config import ExtractionConfig, Limits
from modelmill.tasks.ingest.decode import RejectedError, decoded_content, decoded_text
from modelmill.tasks.ingest.extract import Extractor, archive_rows, extract_rows, nesting
from modelmill.tasks.ingest.extractor import tidy

ARTICLE = """<html><head><title> A   page </title><style>p {}</style></head><body>
<nav><a href="/">home</a> <a href="/all">all pages</a></nav>
<article><h1>Sorting</h1><p>Sorting puts the items of a list in order, and there are many ways to do it well.</p>
<pre>def sort(items):
    if items:
        return sorted(items)</pre>
<p>The formula is <img src="x.png" alt="n log n">, which no comparison sort can beat on every input there is.</p>
<table><tr><th>name</th><th>time</th></tr><tr><td>heap</td><td>slow</td></tr></table></article>
<script>var x = "<p>never</p>";</script><footer>Copyright nobody</footer></body></html>"""


@pytest.fixture(scope="module")
def extractor():
    with Extractor("resiliparse", Limits(extract_seconds=2.0)) as found:
        yield found


def test_main_text_keeps_lines_and_indentation_and_leaves_boilerplate(extractor):
    page = extractor.page(ARTICLE)
    assert page.title == "A page"
    assert "def sort(items):\n    if items:\n        return sorted(items)" in page.text
    assert "n log n" in page.text
    assert "name time\nheap slow" in page.text
    assert not any(word in page.text for word in ("all pages", "never", "Copyright", "p {}"))


@pytest.mark.parametrize("name", ["modelmill", "trafilatura", "union"])
def test_other_extractors_keep_the_article_and_leave_boilerplate(name):
    with Extractor(name, Limits()) as found:
        page = found.page(ARTICLE)
    assert "Sorting puts the items" in page.text
    assert name == "trafilatura" or "The formula is n log n, which" in page.text
    assert "def sort(items):\n    if items:\n        return sorted(items)" in page.text
    assert not any(word in page.text for word in ("all pages", "never", "Copyright", "p {}"))
    assert page.page_type == ("" if name == "trafilatura" else "article")


def test_modelmills_parser_takes_nested_tags_for_what_they_are():
    with Extractor("modelmill", Limits()) as found:
        assert found.page("<div>" * 100_000 + "deep").text == "deep"


@pytest.mark.parametrize(
    ("html", "reason"),
    [
        ("<div>" * 100_000 + "deep", "too_deep"),
        ("<b>" * 100_000 + "deep", "too_deep"),
        ("<html><body></body></html>", "empty_text"),
        ("", "empty_text"),
    ],
)
def test_hostile_and_empty_pages_have_a_reason_and_take_little_time(extractor, html, reason):
    begun = time.monotonic()
    with pytest.raises(RejectedError, match=reason):
        extractor.page(html)
    assert time.monotonic() - begun < 5


def test_a_page_that_takes_too_long_costs_itself_only():
    slow = "".join(f"<table size={number}><div>" for number in range(4000)) + "x"
    with Extractor("resiliparse", Limits(nesting=10**6, extract_seconds=0.5)) as extractor:
        extractor.page(ARTICLE)
        begun = time.monotonic()
        with pytest.raises(RejectedError) as caught:
            extractor.page("<div>" * 60_000 + "x" + slow)
        assert caught.value.reason == "too_slow"
        assert time.monotonic() - begun < 3
        assert extractor.page(ARTICLE).title == "A page"


def test_memory_is_limited():
    with Extractor("resiliparse", Limits(nesting=10**9, page_bytes=10**9, extract_megabytes=120)) as extractor:
        with pytest.raises(RejectedError) as caught:
            extractor.page("<p a=b>x</p>" * 1_000_000)
        assert caught.value.reason == "extractor_failed"
        assert extractor.page(ARTICLE).title == "A page"


def test_nesting_counts_what_nests():
    assert nesting("<p>" * 5000, 10) == 0
    assert nesting("<li><br><td>" * 5000, 10) == 0
    assert nesting("<div><span></span></div>" * 5000, 10) == 2
    assert nesting("<div>" * 5000, 10) == 11


@pytest.mark.parametrize(
    ("body", "encodings", "reason"),
    [
        (lambda: gzip.compress(bytes(300_000_000), 1), "gzip", "too_large"),
        (lambda: brotli.compress(bytes(50_000_000), quality=1), "br", "too_large"),
        (lambda: gzip.compress(gzip.compress(bytes(300_000_000), 1)), "gzip, gzip", "too_large"),
        (lambda: b"x" * 2_000_000, "", "too_large"),
        (lambda: b"no gzip", "gzip", "undecodable"),
        (lambda: gzip.compress(os.urandom(1000))[:-100], "gzip", "undecodable"),
        (lambda: brotli.compress(os.urandom(1000))[:-100], "br", "undecodable"),
        (lambda: b"", "gzip, gzip, gzip, gzip", "undecodable"),
        (lambda: b"", "middle-out", "undecodable"),
    ],
)
def test_content_encodings_are_undone_within_the_limit(body, encodings, reason):
    with pytest.raises(RejectedError) as caught:
        decoded_content(body(), encodings, 1_000_000)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("text", "encoding", "named", "meta"),
    [
        ("naïve café", "utf-8", None, ""),
        ("naïve café", "latin-1", "ISO-8859-1", ""),
        ("привет, мир", "cp1251", None, "<meta charset=windows-1251>"),
        ("日本語のテキスト", "shift_jis", None, ""),
        ("日本語", "euc-jp", "EUC-JP", ""),
        ("text", "utf-16", None, ""),
        ("text in two bytes each", "utf-16-le", "UTF-16LE", ""),
        ("日本語のテキスト", "iso2022_jp", None, "<meta charset=iso-2022-jp>"),
        ("naïve café", "utf-8-sig", None, ""),
        ("联通", "gb2312", None, "<meta charset=gb2312>"),
        ("converted on its way: привет, мир", "utf-8", None, "<meta charset=windows-1251>"),
    ],
)
def test_character_sets_are_found(text, encoding, named, meta):
    assert decoded_text((meta + text).encode(encoding), named).endswith(text)


@pytest.mark.parametrize(
    "body",
    [os.urandom(5000), b"\xff\x00\x01" * 1000, "häßlich".encode() + b"\x80\x81\xfe\x00" * 50],
    ids=["random", "repeated", "half text"],
)
def test_binary_data_is_undecodable(body):
    with pytest.raises(RejectedError, match="undecodable"):
        decoded_text(body, "utf-8")


def test_a_few_bad_bytes_do_not_lose_a_page():
    assert decoded_text(b"<p>" + b"good text " * 100 + b"\xff</p>", "utf-8").startswith("<p>good text")


def test_tidy_keeps_indentation_and_removes_noise():
    assert tidy("\r\n\r\na\u00a0b  \r\n\r\n\r\n\r\n    c\x00\x07\td\n\t\te\n") == "a b\n\n    c d\ne"


def test_rows_in_rows_out():
    table = pa.table({"id": ["a", "b", "c"], "url": ["u", None, "w"], "html": [ARTICLE, "", "<div>" * 5000]})
    kept, dropped = extract_rows(table, ExtractionConfig(extractor="resiliparse"))
    assert kept.column_names == ["id", "url", "text"] and kept["id"].to_pylist() == ["a"]
    assert dropped.to_pylist() == [
        {"id": "b", "url": "", "reason": "empty_text"},
        {"id": "c", "url": "w", "reason": "too_deep"},
    ]
    as_bytes = table.select(["url", "html"]).slice(0, 1).cast(pa.schema([("url", pa.string()), ("html", pa.binary())]))
    kept_bytes, _ = extract_rows(as_bytes, ExtractionConfig(extractor="resiliparse"))
    assert kept_bytes["text"].to_pylist() == kept["text"].to_pylist()
    assert len(kept_bytes["id"][0].as_py()) == 32


def test_an_archive_gives_rows_of_html(tmp_path):
    from tests.tasks.ingest.test_warc import exchange, write_warc

    path = tmp_path / "x.warc.gz"
    write_warc(path, [exchange(0), exchange(1, b"\xff\x00" * 500)], {}, {})
    ((rows, dropped),) = archive_rows(str(path), ExtractionConfig())
    assert rows["url"].to_pylist() == ["http://site.test/0"]
    assert rows["html"][0].as_py().startswith("<p>page 0</p>")
    assert dropped["reason"].to_pylist() == ["undecodable"]
