"""A file source of the recipe → its files, with globs of object stores and Common Crawl's path lists resolved."""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import fsspec

from modelmill.tasks.errors import InputError
from modelmill.tasks.ingest.archives import open_address
from modelmill.tasks.ingest.files import SourceFile, address_problem, expand, is_http, is_remote
from modelmill.tasks.ingest.remote import local_copy
from modelmill.tasks.ingest.sources import (
    AnySource,
    CommonCrawlSource,
    DatasetSource,
    FileSource,
    WarcSource,
    WetSource,
    is_path_list,
)
from modelmill.tasks.placeholders import redacted
from modelmill.tasks.text.bounded_lines import bounded_lines, plain_stream

_MAX_NAME = 4_000  # bytes
_MAX_NAMES = 10_000_000  # Common Crawl's lists have 100,000


def source_files(source: AnySource, downloads: Path) -> list[SourceFile]:
    """The files to read, in the order of their names; lists on HTTP(S) servers pass through the folder `downloads`.

    Raises:
        InputError: a path, glob or list names nothing.
        ResourceError: a server does not give a list.
    """
    if isinstance(source, CommonCrawlSource):
        listed = sorted(_listed(source.path_list, source, downloads), key=lambda file: file.name)
        return listed[source.first_file :][: source.files]
    if isinstance(source, DatasetSource):
        return expand(source.data_files, source.name)
    assert isinstance(source, FileSource)
    files = [file for given in expand(source.paths, source.name) for file in _remote_matches(given, source.name)]
    if not isinstance(source, WarcSource | WetSource):
        return files
    listed = [
        file
        for given in files
        for file in (_listed(given.address, source, downloads) if is_path_list(given.address) else [given])
    ]
    return listed[: source.max_files]


def _remote_matches(file: SourceFile, source: str) -> list[SourceFile]:
    """What a glob on an object store names (`s3://bucket/*.warc.gz`); an HTTP server has no folders to look in."""
    if not is_remote(file.address) or "*" not in file.address or is_http(file.address):
        return [file]
    filesystem: Any
    filesystem, pattern = fsspec.url_to_fs(file.address)
    matches = sorted(filesystem.glob(pattern))
    if not matches:
        raise InputError(
            f"source {source!r}: found nothing at {file.address}. Expected a glob that matches some files there: "
            "correct `paths` in the recipe, or the credentials that this machine uses."
        )
    return [SourceFile(filesystem.unstrip_protocol(match), filesystem.unstrip_protocol(match)) for match in matches]


def _listed(address: str, source: WarcSource | WetSource | CommonCrawlSource, downloads: Path) -> list[SourceFile]:
    """The archives that a path list names."""
    shown = redacted(address)
    try:
        with (
            local_copy(address, downloads, source.download, source.reach) as path,
            open_address(path) as raw,
        ):
            names = list(_names(plain_stream(raw), shown))
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"the path list {shown} cannot be read: {error}. Expected one archive path a line.") from error
    if not names:
        raise InputError(f"the path list {shown} is empty. Expected one archive path a line.")
    return [_named(name, source, address) for name in names]


def _names(stream: IO[bytes], shown: str) -> Iterator[str]:
    for line in bounded_lines(stream, _MAX_NAME):
        if line.content is None or line.number > _MAX_NAMES:
            raise InputError(
                f"the path list {shown} has more than {_MAX_NAMES:,} lines, or more than {_MAX_NAME} bytes in line "
                f"{line.number}. Expected one archive path a line."
            )
        yield line.content.decode("utf-8")


def _named(name: str, source: WarcSource | WetSource | CommonCrawlSource, listed_at: str) -> SourceFile:
    """An archive of a list. The list may come from anywhere, so no line of it leaves the prefix or names a secret."""
    address = source.prefix + name
    problem = address_problem(address)
    if "${" in name:
        problem = "only a recipe names secrets"
    elif source.prefix and not _is_behind(source.prefix, name):
        problem = f"it leads out of the prefix {redacted(source.prefix)}"
    elif not source.prefix and is_remote(listed_at) and not is_remote(name):
        problem = "a list on a server cannot name files of this machine; give the folder as the source's `prefix`"
    if problem:
        raise InputError(f"the path list {redacted(listed_at)} names {redacted(name)[:200]!r}: {problem}")
    return SourceFile(redacted(name), address)


def _is_behind(prefix: str, name: str) -> bool:
    if ".." in name.replace("\\", "/").split("/"):
        return False
    if not is_remote(prefix):
        return not is_remote(prefix + name)
    # Without a slash at its end, a prefix leaves the rest of the host to the name.
    return urlsplit(prefix)[:2] == urlsplit(prefix + name)[:2]
