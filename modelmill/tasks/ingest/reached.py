"""A source that is crawled, on the web or on this machine → the crawl that reaches it, while its site is served."""

import contextlib
from collections.abc import Iterator

from modelmill.tasks.ingest.documentation.catalog import SITE_HOST
from modelmill.tasks.ingest.documentation.site import serving
from modelmill.tasks.ingest.folder_site import FolderSites
from modelmill.tasks.ingest.loopback import listening
from modelmill.tasks.ingest.sources import CrawlRules, CrawlSource, DocumentationSource, FoldersSource


@contextlib.contextmanager
def reached(source: CrawlRules, num_workers: int, page_bytes: int) -> Iterator[CrawlSource]:
    """Serve what lies on this machine; its hosts are crawled like any other, told where they listen."""
    if isinstance(source, DocumentationSource):
        with serving(source.packages, num_workers) as (site, address):
            yield _on_site(source, (f"http://{SITE_HOST}/",), site.hosts, address)
    elif isinstance(source, FoldersSource):
        start = tuple(f"http://{site.host}{path}" for site in source.sites for path in site.start)
        with listening(FolderSites(source.sites, page_bytes).page) as address:
            yield _on_site(source, start, [site.host for site in source.sites], address, source.exclude)
    else:
        assert isinstance(source, CrawlSource)
        yield source


def _on_site(
    source: CrawlRules, start: tuple[str, ...], hosts: list[str], address: str, exclude: tuple[str, ...] = ()
) -> CrawlSource:
    shared = {name: getattr(source, name) for name in CrawlRules.model_fields}
    return CrawlSource(
        kind="crawl",
        start=start,
        hosts=tuple(hosts),
        allow_hosts=tuple(hosts),
        connect_to=dict.fromkeys(hosts, address),
        exclude=exclude,
        **shared,
    )
