"""Start URLs → WARC files, level by level; whatever interrupts it, the same pages in the same files.

A level is the sorted list of new URLs that the level before linked to, cut at the page limit and fetched in batches.
A batch is one WARC file and one report, both written whole; a finished report is never fetched again, and the next
level is computed from reports alone. The frontier lies in memory, which suits crawls up to some millions of URLs.
"""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelmill.tasks.files import read_json, write_json
from modelmill.tasks.ingest.decode import RejectedError, decoded_content, decoded_text
from modelmill.tasks.ingest.fetch import Exchange, Fetcher, Outcome
from modelmill.tasks.ingest.sources import CrawlSource, source_error
from modelmill.tasks.ingest.urls import normal_url, page_links, url_host, url_order
from modelmill.tasks.ingest.warc import write_warc
from modelmill.tasks.journal import Journal

_MAX_REDIRECTS = 5  # in a row, as browsers of the robots.txt age and RFC 9309 count them


@dataclass(frozen=True)
class Target:
    """A URL to fetch: links from a start page to it, redirects just before it, the page that named it."""

    url: str
    depth: int
    redirects: int = 0
    via: str = ""


@dataclass(frozen=True)
class CrawlFolders:
    """Where a crawl keeps its files: `warc` becomes part of the artifact, `reports` is the crawl's memory."""

    warc: Path
    reports: Path


class Scope:
    """The URLs that a crawl may fetch: on its hosts, and not excluded."""

    def __init__(self, source: CrawlSource) -> None:
        self._hosts = tuple(source.hosts or {url_host(start) for start in _start_urls(source)})
        self._exclude = [re.compile(pattern) for pattern in source.exclude]

    def __contains__(self, url: str) -> bool:
        host = url_host(url)
        on_host = any(host == allowed or host.endswith(f".{allowed}") for allowed in self._hosts)
        return on_host and not any(pattern.search(url) for pattern in self._exclude)


def crawl(source: CrawlSource, page_bytes: int, folders: CrawlFolders, journal: Journal) -> list[dict[str, Any]]:
    """Crawl, or finish what an interrupted crawl left; the reports of all batches in order.

    A report is {"warc": file name, "outcomes": [{url, reason, detail, depth, redirects, redirect, links}]}.

    Raises:
        RecipeError: a start URL is not an http(s) URL.
    """
    return asyncio.run(_crawl(source, page_bytes, folders, journal))


async def _crawl(source: CrawlSource, page_bytes: int, folders: CrawlFolders, journal: Journal) -> list[dict[str, Any]]:
    reports: list[dict[str, Any]] = []
    targets = [Target(url, 0) for url in _start_urls(source)]
    seen = {target.url for target in targets}
    num_fetched = level = 0
    async with Fetcher(source, page_bytes) as fetcher:
        while targets and num_fetched < source.pages:
            chosen = sorted(targets, key=lambda target: url_order(target.url))[: source.pages - num_fetched]
            finished = []
            for start in range(0, len(chosen), source.batch_pages):
                batch = chosen[start : start + source.batch_pages]
                name = f"{source.name}-{level:03d}-{start // source.batch_pages:05d}"
                finished.append(await _report(fetcher, source, name, batch, folders))
                num_fetched += len(batch)
                journal.progress(f"crawl {source.name}", num_fetched, source.pages, "pages")
            reports += finished
            targets = _next_targets(finished, seen)
            level += 1
    journal.progress(f"crawl {source.name}", num_fetched, num_fetched, "pages")
    return reports


def _start_urls(source: CrawlSource) -> list[str]:
    urls = []
    for given in source.start:
        url = normal_url(given)
        if url is None:
            raise source_error(source.name, f"expected an http(s) URL in `start`, found {given!r}")
        urls.append(url)
    return sorted(set(urls))


async def _report(
    fetcher: Fetcher, source: CrawlSource, name: str, targets: Sequence[Target], folders: CrawlFolders
) -> dict[str, Any]:
    """The report of a batch: read where it is finished, otherwise fetched and written, WARC file first."""
    path, warc = folders.reports / f"{name}.json", folders.warc / f"{name}.warc.gz"
    if path.exists() and warc.exists():
        return read_json(path)
    outcomes = await asyncio.gather(*(fetcher.fetch(target.url) for target in targets))
    exchanges = [outcome.exchange for outcome in outcomes if outcome.exchange is not None]
    write_warc(warc, exchanges, _facts(source), {target.url: target.via for target in targets if target.via})
    scope = Scope(source)
    described = [_outcome(source, scope, fetcher.page_bytes, *pair) for pair in zip(targets, outcomes, strict=True)]
    report = {"warc": warc.name, "outcomes": described}
    write_json(path, report)
    return report


def _facts(source: CrawlSource) -> dict[str, str]:
    facts = {
        "software": "modelmill",
        "format": "WARC File Format 1.1",
        "robots": "classic",
        "http-header-user-agent": source.user_agent,
    }
    return facts | ({"operator": source.contact} if source.contact else {})


def _outcome(source: CrawlSource, scope: Scope, page_bytes: int, target: Target, outcome: Outcome) -> dict[str, Any]:
    links = []
    if outcome.exchange is not None and target.depth < source.depth:
        links = sorted(link for link in _links_of(outcome.exchange, page_bytes) if link in scope)
    redirect = outcome.redirect
    if redirect and (target.redirects >= _MAX_REDIRECTS or redirect not in scope):
        redirect = None
    return {
        "url": target.url,
        "reason": outcome.reason,
        "detail": outcome.detail,
        "depth": target.depth,
        "redirects": target.redirects,
        "redirect": redirect,
        "links": links,
    }


def _links_of(exchange: Exchange, page_bytes: int) -> set[str]:
    """Links of a page; a body that cannot be read, or is too large, has none, and extraction will say why."""
    try:
        body = decoded_content(exchange.body, exchange.header("content-encoding"), page_bytes)
        _, _, charset = exchange.header("content-type").partition("charset=")
        return set(page_links(decoded_text(body, charset.strip("\"' ") or None), exchange.url))
    except RejectedError:
        return set()


def _next_targets(reports: list[dict[str, Any]], seen: set[str]) -> list[Target]:
    """New URLs that a level named, each by the shortest way to it."""
    found: dict[str, Target] = {}
    outcomes = [outcome for report in reports for outcome in report["outcomes"]]
    for outcome in sorted(outcomes, key=lambda outcome: (outcome["depth"], outcome["redirects"], outcome["url"])):
        url, depth = outcome["url"], outcome["depth"]
        if outcome["redirect"]:
            target = Target(outcome["redirect"], depth, outcome["redirects"] + 1, url)
            found.setdefault(target.url, target)
        for link in outcome["links"]:
            found.setdefault(link, Target(link, depth + 1, 0, url))
    new = [target for target in found.values() if target.url not in seen]
    seen.update(target.url for target in new)
    return new
