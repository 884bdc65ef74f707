"""Pages made to harm, and damaged ones, through every extractor's real child process: each costs its limit at most.

MODELMILL_FUZZ_EXAMPLES sets how many damaged pages are tried; above the default, hostile pages have full size too.
"""

import codecs
import gzip
import os
import time
import zlib

import brotli
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelmill.tasks.ingest.config import Limits
from modelmill.tasks.ingest.decode import RejectedError, decoded_content, decoded_text
from modelmill.tasks.ingest.extract import ExtractedPage, Extractor
from modelmill.tasks.ingest.extractor import EXTRACTORS
from tests.tasks.ingest.test_extract import ARTICLE

EXAMPLES = int(os.environ.get("MODELMILL_FUZZ_EXAMPLES", "25"))
LIMITS = Limits() if EXAMPLES > 25 else Limits(page_bytes=20_000, extract_seconds=1.0)
SIZE = LIMITS.page_bytes
# Beside the extraction: counting tags, ending the child, and starting another one where the machine is busy.
OVERHEAD_SECONDS = 20.0
REASONS = {"too_large", "too_deep", "too_slow", "extractor_failed", "empty_text"}

# What is repeated until the page is as long as a page may be.
REPEATED = {
    "attribute": ("<p ", "a "),
    "unclosed attribute": ("<p a='", "x <p>"),
    "nested tags": ("", "<div>"),
    "nested inline tags": ("", "<b>"),
    "nested tables": ("", "<table><tr><td>"),
    "nested links": ("", "<a href=x>word"),
    "unclosed paragraphs": ("", "<p>"),
    "unclosed items": ("<ul>", "<li>word"),
    "misnested formatting": ("", "<p><b><i><u>word</p>"),
    "less-than signs": ("", "<"),
    "half comments": ("", "<!--"),
    "half closing tags": ("", "</"),
    "one text": ("<p>", "word "),
    "one word": ("<p>", "x"),
    "one table": ("<table><tr>", "<td>x"),
    "many tables": ("", "<table><tr><td>x</table>"),
    "entities": ("<p>", "&amp;"),
    "entities without end": ("<p>", "&ampx"),
    "one character reference": ("<p>&#", "9"),
    "null bytes": ("", "\0"),
    "null bytes in text": ("", "<p>a\0b</p>"),
    "lone surrogates": ("<p>", "\ud800x"),
    "half scripts": ("<script>", "<!--<script>"),
    "character data": ("", "<![CDATA["),
    "headings": ("", "<h1>x</h1>"),
    "flat blocks": ("", "<div>word</div>"),
    "blocks that look like the main one": ("", "<div class='main content article'>w</div>"),
    "combining marks": ("<p>a", "\u0301"),
    "line breaks": ("", "<br>"),
    "dates": ("", "<p>2020-01-01 "),
    "nested data": ("<p>words<script type='application/ld+json'>", '{"a":'),
}


def repeated(name: str) -> str:
    head, unit = REPEATED[name]
    return head + unit * ((SIZE - len(head)) // len(unit.encode("utf-8", errors="replace")))


@pytest.fixture(scope="module", params=sorted(EXTRACTORS))
def extractor(request: pytest.FixtureRequest):
    with Extractor(request.param, LIMITS) as found:
        found.page(ARTICLE)
        yield found


def outcome(extractor: Extractor, html: str) -> ExtractedPage | str:
    try:
        return extractor.page(html)
    except RejectedError as error:
        assert error.reason in REASONS
        return error.reason


def test_hostile_pages_cost_their_limit_and_the_next_page_is_read(extractor):
    for name in REPEATED:
        begun = time.monotonic()
        outcome(extractor, repeated(name))
        assert time.monotonic() - begun < LIMITS.extract_seconds + OVERHEAD_SECONDS, name
        assert "Sorting puts the items" in extractor.page(ARTICLE).text, name


TOKENS = [
    *("<", ">", "</", "<!--", "-->", "<!", "&", "&#x", ";", '"', "'", "=", "\0", "\ud800", "\ufffe", "\u202e", "\r"),
    *(
        "<table>",
        "</p>",
        "<svg>",
        "<math>",
        "<template>",
        "<frameset>",
        "<select>",
        "<plaintext>",
        "<script>",
        "</html>",
    ),
    *("<base href=//>", "<meta charset=utf-16>", "<![CDATA[", "<title>", "<textarea>", "<p " + "a" * 300),
]


def test_damaged_pages_are_read_or_refused_with_a_reason(extractor):
    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(
        st.lists(
            st.tuples(
                st.integers(0, len(ARTICLE)),
                st.integers(0, 60),
                st.one_of(st.sampled_from(TOKENS), st.integers(0, len(ARTICLE)).map(lambda at: ARTICLE[at : at + 80])),
            ),
            min_size=1,
            max_size=8,
        )
    )
    def check(edits: list[tuple[int, int, str]]) -> None:
        html = ARTICLE
        for position, removed, inserted in edits:
            html = html[:position] + inserted + html[position + removed :]
        found = outcome(extractor, html)
        if isinstance(found, ExtractedPage):
            assert (found.title + found.text).encode()  # no surrogates
            assert "\0" not in found.text

    check()
    assert "Sorting puts the items" in extractor.page(ARTICLE).text


def deflated(body: bytes) -> bytes:
    return zlib.compress(body, 9)


def raw_deflated(body: bytes) -> bytes:
    return deflated(body)[2:-4]


@pytest.mark.parametrize(
    ("encodings", "layers"),
    [
        ("gzip", [gzip.compress]),
        ("deflate", [deflated]),
        ("deflate", [raw_deflated]),
        ("br", [lambda body: brotli.compress(body, quality=1)]),
        ("zstd", [lambda body: pa.compress(body, "zstd", asbytes=True)]),
        ("gzip, zstd", [gzip.compress, lambda body: pa.compress(body, "zstd", asbytes=True)]),
        ("deflate, br, gzip", [deflated, lambda body: brotli.compress(body, quality=1), gzip.compress]),
    ],
)
def test_bombs_of_every_encoding_stop_at_the_limit(encodings, layers):
    body = bytes(40_000_000)
    for layer in layers:
        body = layer(body)
    assert len(body) < 60_000
    with pytest.raises(RejectedError) as caught:
        decoded_content(body, encodings, 1_000_000)
    assert caught.value.reason == "too_large"


CHARACTER_SETS = [
    *("utf-8", "utf-16", "utf-16le", "utf-7", "utf-32", "latin-1", "cp1252", "shift_jis", "euc-jp", "iso-2022-jp"),
    *("iso-2022-kr", "gb18030", "gbk", "hz-gb-2312", "big5", "big5-hkscs", "euc-kr", "koi8-r", "cp1251", "tis-620"),
]
LABELS = [*CHARACTER_SETS, "x-user-defined", "replacement", "none", "", "\0", "utf-8\xff", "x" * 5000]
SENTENCES = ["naïve café", "привет, мир", "日本語のテキスト", "简体中文的网页", "한국어 문장", "plain words"]


def test_no_wrong_character_set_crashes_the_decoder():
    for label in LABELS:
        for sentence in SENTENCES:
            for encoding in CHARACTER_SETS:
                try:
                    body = sentence.encode(codecs.lookup(encoding).name, errors="ignore")
                except LookupError:  # names that only browsers know
                    continue
                try:
                    assert isinstance(decoded_text(body * 20, label), str)
                except RejectedError as error:
                    assert error.reason == "undecodable"


@settings(max_examples=EXAMPLES * 4, derandomize=True, database=None, deadline=None)
@given(st.binary(max_size=400), st.one_of(st.none(), st.sampled_from(LABELS), st.text(max_size=20)))
def test_no_bytes_crash_the_decoder(body, label):
    try:
        assert isinstance(decoded_text(body, label), str)
    except RejectedError as error:
        assert error.reason == "undecodable"


@settings(max_examples=EXAMPLES * 4, derandomize=True, database=None, deadline=None)
@given(
    st.binary(max_size=300),
    st.sampled_from(["gzip", "deflate", "br", "zstd"]),
    st.integers(0, 60),
    st.binary(max_size=9),
)
def test_no_bytes_crash_the_decompressors(content, encoding, position, inserted):
    packed = {
        "gzip": gzip.compress(content),
        "deflate": deflated(content),
        "br": brotli.compress(content),
        "zstd": pa.compress(content, "zstd", asbytes=True),
    }[encoding]
    try:
        decoded_content(packed[:position] + inserted + packed[position + 1 :], encoding, 10_000)
    except RejectedError as error:
        assert error.reason in ("undecodable", "too_large")
