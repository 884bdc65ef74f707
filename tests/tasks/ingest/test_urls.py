"""One normal form for each address, and links as robots should see them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmill.tasks.ingest.urls import normal_url, page_links


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("HTTP://Example.COM:80", "http://example.com/"),
        ("https://example.com:443/a/../b/./c", "https://example.com/b/c"),
        ("http://example.com:8080/", "http://example.com:8080/"),
        ("http://example.com/a#part", "http://example.com/a"),
        ("http://example.com/?", "http://example.com/"),
        ("http://example.com/a?z=1&a=2&utm_source=x", "http://example.com/a?a=2&z=1"),
        ("http://example.com/%7euser/%c3%a9", "http://example.com/~user/%C3%A9"),
        ("http://example.com/é", "http://example.com/%C3%A9"),
        ("http://user:secret@example.com/", "http://example.com/"),
        ("http://bücher.example/", "http://xn--bcher-kva.example/"),
        ("http://example.com./", "http://example.com/"),
        ("http://[2001:db8::1]:81/x", "http://[2001:db8::1]:81/x"),
        ("ftp://example.com/", None),
        ("mailto:a@example.com", None),
        ("javascript:void(0)", None),
        ("http://", None),
        ("http://example.com:99999999/", None),
        ("http://example.com/" + "x" * 3000, None),
    ],
)
def test_normal_form(given, expected):
    assert normal_url(given) == expected


@given(st.text(max_size=60))
def test_normal_form_is_a_fixed_point_and_never_raises(text):
    normal = normal_url(f"http://example.com/{text}")
    if normal is not None:
        assert normal_url(normal) == normal


def test_links_are_resolved_against_the_base():
    text = '<base href="/docs/"><a href="a.html">1</a> <A class=x HREF=b.html>2</a> <a href=\'../c?x=1&amp;y=2\'>3</a>'
    assert list(page_links(text, "http://site.test/page")) == [
        "http://site.test/docs/a.html",
        "http://site.test/docs/b.html",
        "http://site.test/c?x=1&y=2",
    ]


@pytest.mark.parametrize("piece", ["<a ", "<a href=", '<a href="', "<base href", "<meta name=robots "])
def test_hostile_pages_are_read_in_linear_time(piece):
    list(page_links(piece * 200_000, "http://site.test/"))
