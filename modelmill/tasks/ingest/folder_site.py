"""Folders of HTML on this machine → web sites over loopback, one host each, and the digest of what they show."""

import email.utils
import hashlib
import html
import mimetypes
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote, urlsplit

from pydantic import Field

from modelmill.tasks.errors import InputError
from modelmill.tasks.files import file_digest
from modelmill.tasks.ingest.loopback import Page
from modelmill.tasks.stage import StageConfig

_ROBOTS = b"User-agent: *\nDisallow:\n"
_PAGE_SUFFIXES = (".html", ".htm", ".xhtml")
_LIST_DATE = 1_704_067_200  # 2024-01-01, as the pages of the built-in site


class FolderSite(StageConfig):
    """A folder of HTML pages, shown under a host name."""

    host: str = Field(pattern=r"^[a-z0-9-]+(\.[a-z0-9-]+)*\.test$")
    """Ends in `.test`, which is nobody's (RFC 6761); it becomes part of the documents' URLs."""
    folder: str = Field(json_schema_extra={"placement": True})
    """Path of the folder; names, contents and dates of its pages enter the key."""
    start: tuple[str, ...] = ("/",)
    """Paths on the host at which the crawl begins; a folder without `index.html` shows a list of its entries."""
    package: str = Field(default="", json_schema_extra={"placement": True})
    """The Debian package that brings the folder, for the message where it is missing."""


class FolderSites:
    """Answers for the hosts of a recipe: files as they are, and a list of entries for a folder without index.html.

    Of a file of more than `page_bytes` one byte more than these is shown, so that the crawl drops it.
    """

    def __init__(self, sites: Sequence[FolderSite], page_bytes: int) -> None:
        self._roots = {site.host: Path(site.folder) for site in sites}
        self._most_bytes = page_bytes + 1

    def page(self, host: str, path: str) -> Page | None:
        """What a path on a host shows, or None when there is no such page."""
        root = self._roots.get(host)
        parts = PurePosixPath(unquote(urlsplit(path).path).lstrip("/")).parts
        if root is None or any(part in ("..", "") or "\0" in part or part.startswith(".") for part in parts):
            return None
        found = root.joinpath(*parts)
        if found.is_dir():
            if not urlsplit(path).path.endswith("/"):
                return Page(b"", "text/plain", "", location=f"{quote('/' + '/'.join(parts))}/")
            index = found / "index.html"
            if not index.is_file():
                return _listing(found, "/" + "/".join(parts))
            found = index
        if not found.is_file():
            return Page(_ROBOTS, "text/plain", "") if parts == ("robots.txt",) else None
        kind = "text/html" if found.suffix.lower() in _PAGE_SUFFIXES else mimetypes.guess_type(found.name)[0]
        with found.open("rb") as file:
            body = file.read(self._most_bytes)
        return Page(body, kind or "application/octet-stream", _modified(found))


def site_digest(site: FolderSite) -> str:
    """Digest of the pages of a folder: names, contents, and dates to the second, which become those of the documents.

    Raises:
        InputError: the folder does not exist or holds no page.
    """
    root = Path(site.folder)
    names = sorted(
        file.relative_to(root).as_posix() for file in root.rglob("*") if file.suffix.lower() in _PAGE_SUFFIXES
    )
    if not names:
        found = "it holds no HTML file" if root.is_dir() else "there is no such folder"
        todo = f"Run `apt-get install {site.package}`" if site.package else "Correct the path, or put the pages there"
        raise InputError(
            f"site {site.host}: expected a folder with HTML files at {site.folder}, but {found}. {todo}, and run again."
        )
    digest = hashlib.blake2b(digest_size=20)
    for name in names:
        digest.update(f"{name}\0{file_digest(root / name)}\0{int((root / name).stat().st_mtime)}\n".encode())
    return digest.hexdigest()


def _modified(file: Path) -> str:
    return email.utils.formatdate(int(file.stat().st_mtime), usegmt=True)


def _listing(folder: Path, path: str) -> Page:
    """What a web server shows of a folder without a page of its own: links to its folders and pages."""
    entries = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
    pages = [entry for entry in entries if entry.suffix.lower() in _PAGE_SUFFIXES]
    names = [f"{entry.name}/" for entry in entries if entry.is_dir()] + [page.name for page in pages]
    items = "".join(f'<li><a href="{quote(name)}">{html.escape(name)}</a></li>' for name in names)
    text = f"<!DOCTYPE html><html><head><title>Index of {html.escape(path)}</title></head><body><ul>{items}</ul></body>"
    # A folder's own date is that of its installation; a list of folders has a fixed one.
    modified = max((int(page.stat().st_mtime) for page in pages), default=_LIST_DATE)
    return Page(
        text.encode("utf-8", errors="replace"),
        "text/html; charset=utf-8",
        email.utils.formatdate(modified, usegmt=True),
    )
