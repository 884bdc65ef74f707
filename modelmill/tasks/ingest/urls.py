"""Addresses as pages write them → one normal form each, so that a page is fetched once."""

import functools
import hashlib
import html
import re
from collections.abc import Iterator
from urllib.parse import parse_qsl, quote_plus, unquote, urldefrag, urljoin, urlsplit

import httpx
from courlan.clean import clean_query

# Bounded repeats that stop at the next tag are linear on hostile pages, where a parser may take quadratic time.
_ANCHOR = re.compile(r"<a\s([^<>]{0,2000})>", re.IGNORECASE)
_BASE = re.compile(r"<base\s[^<>]{0,500}?href\s*=\s*[\"']?([^\"'\s>]{1,2000})", re.IGNORECASE)
_HREF = re.compile(r"(?:^|\s)href\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s\"'>]+))", re.IGNORECASE)
_NOFOLLOW = re.compile(r"(?:^|\s)rel\s*=\s*[\"']?[^\"'>]*\bnofollow\b", re.IGNORECASE)
_ROBOTS_META = re.compile(r"<meta\s(?=[^<>]{0,300}name\s*=\s*[\"']?robots)[^<>]{0,300}nofollow", re.IGNORECASE)
_PERCENT = re.compile(r"%[0-9A-Fa-f]{2}")
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_MAX_PORT = 65_535
_MAX_LENGTH = 2_000  # characters; longer addresses are traps or data


@functools.lru_cache(maxsize=200_000)
def normal_url(url: str) -> str | None:
    """The normal form of an absolute http(s) URL, or None when it is not one that can be fetched.

    RFC 3986 section 6: lower-case scheme and host (IDNA), no default port, dot segments resolved, unreserved
    characters unescaped; besides, no fragment, no user name or password, no tracking parameters, query sorted.
    """
    try:
        parsed = httpx.URL(url.strip())
    except (httpx.InvalidURL, ValueError, UnicodeError):
        return None
    if parsed.scheme not in ("http", "https") or not parsed.host or len(url) > _MAX_LENGTH:
        return None
    if parsed.port is not None and parsed.port > _MAX_PORT:
        return None
    path, _, query = parsed.raw_path.decode("ascii").partition("?")
    port = f":{parsed.port}" if parsed.port not in (None, _DEFAULT_PORTS[parsed.scheme]) else ""
    host = parsed.raw_host.decode("ascii").lower().rstrip(".")
    host = f"[{host}]" if ":" in host else host
    query = _sorted_query(query)
    return f"{parsed.scheme}://{host}{port}{_normal_escapes(path) or '/'}{'?' + query if query else ''}"


def page_links(text: str, url: str) -> Iterator[str]:
    """Normal forms of the addresses that a page asks robots to follow, in page order, each once."""
    if _ROBOTS_META.search(text):
        return
    base_tag = _BASE.search(text)
    base = urljoin(url, html.unescape(base_tag.group(1))) if base_tag else url
    seen: set[str] = set()
    for anchor in _ANCHOR.finditer(text):
        found = _HREF.search(anchor.group(1))
        if found is None or _NOFOLLOW.search(anchor.group(1)):
            continue
        reference = urldefrag(html.unescape(found.group(1) or found.group(2) or found.group(3) or ""))[0]
        if reference and reference not in seen:
            seen.add(reference)
            if normal := resolved_url(base, reference):
                yield normal


def resolved_url(base: str, reference: str) -> str | None:
    """The normal form of a reference on a page or in a Location header."""
    try:
        return normal_url(urljoin(base, reference.strip()))
    except ValueError:
        return None


def url_host(url: str) -> str:
    """The host of a normal URL, without the port."""
    return urlsplit(url).hostname or ""


def url_order(url: str) -> str:
    """A sort key that mixes hosts and takes no side for the beginning of the alphabet."""
    return hashlib.blake2b(url.encode(), digest_size=8).hexdigest()


def _sorted_query(query: str) -> str:
    cleaned = clean_query(query)
    pairs = sorted(parse_qsl(cleaned, keep_blank_values=True))
    return "&".join(f"{quote_plus(name)}={quote_plus(value)}" if value else quote_plus(name) for name, value in pairs)


def _normal_escapes(path: str) -> str:
    def normal(match: re.Match[str]) -> str:
        character = unquote(match.group())
        return character if _UNRESERVED.fullmatch(character) else match.group().upper()

    return _PERCENT.sub(normal, path)
