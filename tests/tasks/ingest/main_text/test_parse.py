import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from resiliparse.extract.html2text import extract_plain_text

from modelmill.tasks.ingest.main_text.blocks import found_blocks
from modelmill.tasks.ingest.main_text.joined import block_texts, joined_text, page_title
from modelmill.tasks.ingest.main_text.parse import Markup, parsed
from modelmill.tasks.ingest.main_text.vocabulary import TAGS


def tree(html: str) -> list[tuple[str, int]]:
    """Name and parent of each element but the document."""
    page = parsed(html.encode())
    return [(TAGS[tag], int(parent)) for tag, parent in zip(page.tag, page.parent, strict=True)][1:]


def runs(html: str | bytes) -> list[bytes]:
    page = parsed(html.encode() if isinstance(html, str) else html)
    return [page.content[a:b].tobytes() for a, b in zip(page.run_start, page.run_end, strict=True)]


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("<p>a<p>b", [("p", 0), ("p", 0)]),
        ("<p>a<div>b</div>", [("p", 0), ("div", 0)]),
        ("<ul><li>a<li>b<ul><li>c</ul><li>d</ul>", [("ul", 0), ("li", 1), ("li", 1), ("ul", 3), ("li", 4), ("li", 1)]),
        ("<dl><dt>a<dd>b<dt>c", [("dl", 0), ("dt", 1), ("dd", 1), ("dt", 1)]),
        ("<table><tr><td>a<td>b<tr><th>c", [("table", 0), ("tr", 1), ("td", 2), ("td", 2), ("tr", 1), ("th", 5)]),
        (
            "<table><thead><tr><td>a<tbody><tr><td>b",
            [("table", 0), ("thead", 1), ("tr", 2), ("td", 3), ("tbody", 1), ("tr", 5), ("td", 6)],
        ),
        (
            "<table><tr><td><table><tr><td>a</table>b<td>c",
            [("table", 0), ("tr", 1), ("td", 2), ("table", 3), ("tr", 4), ("td", 5), ("td", 2)],
        ),
        ("<select><option>a<option>b</select>", [("select", 0), ("option", 1), ("option", 1)]),
        ("<a href=x>a<a href=y>b", [("a", 0), ("a", 0)]),
        ("<br>a<img src=x>b<hr/>c<p>d", [("br", 0), ("img", 0), ("hr", 0), ("p", 0)]),
        ("<head><title>t</title><p>a", [("head", 0), ("title", 1), ("p", 0)]),
        ("<div><b>a</div>b", [("div", 0), ("b", 1)]),
        ("</p></div>a", []),
    ],
)
def test_ends_that_html_implies(html: str, expected: list[tuple[str, int]]) -> None:
    assert tree(html) == expected


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("", []),
        ("a < b <3 c", [b"a < b <3 c"]),
        ("a<!-->b", [b"a", b"b"]),
        ("a<!--->b", [b"a", b"b"]),
        ("a<!-- > <p> -- -->b", [b"a", b"b"]),
        ("a<!-- <p> --!>b", [b"a", b"b"]),
        ("a<!----!>b", [b"a", b"b"]),
        ("a<!--!>b-->c<!---!>d-->e", [b"a", b"c", b"e"]),
        ("a<!-- -!>b--! >c-->d", [b"a", b"d"]),
        ("a<!-- never closed", [b"a"]),
        ("<!DOCTYPE html>a<?php b ?>c", [b"a", b"c"]),
        ("<script>if (a</b>c) '<p>'</script>d", [b"if (a</b>c) '<p>'", b"d"]),
        ("<textarea><b>a</TEXTAREA >b", [b"<b>a", b"b"]),
        ("<style>a", [b"a"]),
        ("<noscript><p>a</noscript>b", [b"a", b"b"]),
        ("<a href=a>b</a>c>d", [b"b", b"c>d"]),
        ("<p title='a>b'>c", [b"c"]),
        ('<p title="a>b', []),
        ("<p =x>a", [b"a"]),
        ("<p", []),
        ("a<", [b"a<"]),
        ("a</", [b"a"]),
        ("a\0b<p>\0", [b"a\0b", b"\0"]),
        ("<p a=", []),
    ],
)
def test_text_between_tags(html: str, expected: list[bytes]) -> None:
    assert runs(html) == expected


def test_deep_nesting_stops_as_in_browsers() -> None:
    page = parsed(b"<div>" * 3_000 + b"inside")
    assert len(page.tag) == 3_001
    assert page.depth.max() == 513
    assert runs(b"<div>" * 3_000 + b"inside") == [b"inside"]


def test_text_is_what_another_parser_reads() -> None:
    html = (
        "<html><head><title>A &amp; B</title></head><body><h1>One</h1><p>Two <b>three</b>, four &lt; five.<ul><li>Six"
        "<li>Seven</ul><table><tr><td>8<td>9</table><p>Caf&eacute;<br>ten</body></html>"
    )
    page = parsed(html.encode())
    blocks = found_blocks(page)
    ours = joined_text(page, blocks, np.ones(len(blocks), bool))
    assert ours.split() == extract_plain_text(html, main_content=False, list_bullets=False).split()
    assert page_title(page) == "A & B"


def _check(page: Markup) -> None:
    count, size = len(page.tag), len(page.content)
    numbers = np.arange(count)
    assert (page.parent[1:] < numbers[1:]).all()
    assert (page.parent >= 0).all()
    assert ((page.last >= numbers) & (page.last < count)).all()
    assert (page.last <= page.last[page.parent]).all()
    bounds = np.stack([page.run_start, page.run_end], axis=1).ravel()
    assert (np.diff(bounds) >= 0).all()
    assert (page.run_start < page.run_end).all()
    assert not len(bounds) or (bounds[0] >= 0 and bounds[-1] <= size)
    assert ((page.run_element >= 0) & (page.run_element < page.run_before)).all()
    assert ((page.names >= 0) & (page.names <= size)).all()
    blocks = found_blocks(page)
    assert (blocks.first < blocks.last).all()
    assert (blocks.last[:-1] <= blocks.first[1:]).all()
    assert ((blocks.element >= 0) & (blocks.element < count)).all()
    assert len(block_texts(page, blocks, np.arange(len(blocks)))) == len(blocks)


PIECES = (
    "<p>", "</p>", "<div class='a'>", "</div>", "<table>", "<tr>", "<td>", "</table>", "<li>", "<ul>", "</ul>", "<!--",
    "-->", "<script>", "</script>", "<title>", "<", ">", "&", "&#", "&#x10ffff;", "&nbsp;", "text ", "中文", "=", "'",
    "<a href=x>", "</a>", "<head>", "<math>", "<annotation encoding=tex>", "</math>", "<pre>", "<br>", " \n", "\0",
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=60), st.binary(max_size=8), st.integers(0, 400))
def test_any_bytes_keep_order_and_range(pieces: list[str], noise: bytes, at: int) -> None:
    html = "".join(pieces).encode()
    _check(parsed(html[:at] + noise + html[at:]))
    _check(parsed(html[: max(at, 1)]))


def test_every_prefix_of_a_page_is_read() -> None:
    html = "<p class=a id='b'>x &amp; é<!-- c --><script type=x>y</script><td>&#x41;</p>".encode()
    for end in range(len(html)):
        _check(parsed(html[:end]))
