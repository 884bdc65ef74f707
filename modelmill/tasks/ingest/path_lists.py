"""A file source of the recipe → its files, with globs of object stores and Common Crawl's path lists resolved."""

import gzip
import zlib
from pathlib import Path
from typing import Any

import fsspec

from modelmill.tasks.errors import InputError
from modelmill.tasks.ingest.archives import open_address
from modelmill.tasks.ingest.config import (
    AnySource,
    CommonCrawlSource,
    DatasetSource,
    FileSource,
    WarcSource,
    WetSource,
    is_path_list,
)
from modelmill.tasks.ingest.files import SourceFile, expand, is_remote
from modelmill.tasks.ingest.remote import local_copy


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
    if not is_remote(file.address) or "*" not in file.address or file.address.startswith(("http://", "https://")):
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
    with local_copy(address, downloads, source.download) as path, open_address(path) as stream:
        content = stream.read()
    try:
        text = (gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content).decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(
            f"the path list {address} cannot be read: {error}. Expected one archive path a line."
        ) from error
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise InputError(f"the path list {address} is empty. Expected one archive path a line.")
    return [SourceFile(name, source.prefix + name) for name in names]
