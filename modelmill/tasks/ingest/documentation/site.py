"""Packages → a web site on a loopback port: an index, a robots.txt, and a page a module, rendered by companions."""

import contextlib
import html
import os
import queue
import tempfile
from collections.abc import Iterator
from pathlib import Path

from modelmill.tasks.ingest.companion import Companion, CompanionError
from modelmill.tasks.ingest.documentation import render
from modelmill.tasks.ingest.documentation.catalog import SITE_HOST, package_host, page_urls
from modelmill.tasks.ingest.loopback import Page, listening

# One date for all pages: what they say changes with a library's release, which is part of the stage's key.
_LAST_MODIFIED = "Mon, 01 Jan 2024 00:00:00 GMT"
_ROBOTS = "User-agent: *\nDisallow: /search\n"


class DocumentationSite:
    """Renders pages with a few companions; a page that cannot be rendered in time does not exist."""

    def __init__(self, packages: tuple[str, ...], num_renderers: int, home: Path) -> None:
        self.packages = packages
        self.urls = page_urls(packages)
        self._modules = {url.removeprefix("http://"): module for module, url in self.urls.items()}
        self._renderers: queue.SimpleQueue[Companion] = queue.SimpleQueue()
        for _ in range(num_renderers):
            self._renderers.put(Companion(render.__name__, packages, _environment(home)))
        self._num_renderers = num_renderers

    @property
    def hosts(self) -> list[str]:
        """Every host name that the site answers to."""
        return [SITE_HOST, *(package_host(package) for package in self.packages)]

    def page(self, host: str, path: str) -> Page | None:
        """What a path on a host shows, or None when there is no such page."""
        kind, text = ("plain", _ROBOTS) if path == "/robots.txt" else ("html", self._contents(host, path))
        if not text:
            return None
        return Page(text.encode("utf-8", errors="replace"), f"text/{kind}; charset=utf-8", _LAST_MODIFIED)

    def close(self) -> None:
        """End the companions, waiting for those that are busy."""
        for _ in range(self._num_renderers):
            self._renderers.get().close()

    def _contents(self, host: str, path: str) -> str:
        if host == SITE_HOST and path == "/":
            links = {package: f"http://{package_host(package)}/" for package in self.packages}
            return _index("Documentation of installed packages", links)
        if path == "/":
            links = {module: url for module, url in self.urls.items() if url.startswith(f"http://{host}/")}
            return _index(f"Modules of {host.removesuffix(f'.{SITE_HOST}')}", links) if links else ""
        module = self._modules.get(host + path)
        return self._rendered(module) if module else ""

    def _rendered(self, module: str) -> str:
        """A page that only a busy machine makes slow exists all the same: time is given once more, and more of it."""
        renderer = self._renderers.get()
        try:
            for seconds in (render.PAGE_SECONDS, render.PATIENT_SECONDS):
                try:
                    return renderer.ask(module.encode(), seconds).decode()
                except CompanionError as error:
                    if not error.timed_out:
                        break
            return ""
        finally:
            self._renderers.put(renderer)


@contextlib.contextmanager
def serving(packages: tuple[str, ...], num_renderers: int) -> Iterator[tuple[DocumentationSite, str]]:
    """The site while it answers, and the `address:port` where it does."""
    with tempfile.TemporaryDirectory(prefix="modelmill-site-") as home:
        site = DocumentationSite(packages, num_renderers, Path(home))
        try:
            with listening(site.page) as address:
                yield site, address
        finally:
            site.close()


def _index(title: str, links: dict[str, str]) -> str:
    items = "\n".join(f'<li><a href="{url}">{html.escape(name)}</a></li>' for name, url in links.items())
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title></head>\n'
        f'<body><nav><a href="http://{SITE_HOST}/">all packages</a> <a href="/search?q=">search</a></nav>\n'
        f"<h1>{html.escape(title)}</h1>\n<ul>\n{items}\n</ul></body></html>\n"
    )


def _environment(home: Path) -> dict[str, str]:
    """What a renderer may know of this machine: pages must not depend on it."""
    fixed = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "TZ": "UTC", "COLUMNS": "80", "LINES": "24", "TERM": "dumb"}
    fixed |= {"PATH": os.defpath, "MPLBACKEND": "Agg", "HOME": str(home), "TMPDIR": str(home)}
    own_modules = {"PYTHONSAFEPATH": "1", "PYTHONNOUSERSITE": "1"}
    quiet = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    # Where an installation keeps its libraries; it decides whether a module can be imported, not what it says.
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    return kept | fixed | own_modules | quiet
