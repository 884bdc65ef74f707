"""A file source of the recipe → its files, with globs of object stores and Common Crawl's path lists resolved."""

import gzip
from typing import Any

import fsspec

from modelmill.tasks.errors import InputError
from modelmill.tasks.ingest.archives import open_address
from modelmill.tasks.ingest.config import AnySource, DatasetSource, FileSource, WarcSource, WetSource, is_path_list
from modelmill.tasks.ingest.files import SourceFile, expand, is_remote


def source_files(source: AnySource) -> list[SourceFile]:
    """The files to read, in the order of their names.

    Raises:
        InputError: a path, glob or list names nothing.
    """
    if isinstance(source, DatasetSource):
        return expand(source.data_files, source.name)
    assert isinstance(source, FileSource)
    files = [file for given in expand(source.paths, source.name) for file in _remote_matches(given, source.name)]
    if not isinstance(source, WarcSource | WetSource):
        return files
    listed = [file for given in files for file in _listed(given, source.prefix)]
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


def _listed(file: SourceFile, prefix: str) -> list[SourceFile]:
    """The archives that a path list names, or the file itself when it is no list."""
    if not is_path_list(file.address):
        return [file]
    with open_address(file.address) as stream:
        content = stream.read()
    text = (gzip.decompress(content) if file.address.endswith(".gz") else content).decode("utf-8")
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise InputError(f"the path list {file.address} is empty. Expected one archive path a line.")
    return [SourceFile(name, prefix + name) for name in names]
