"""A user's files, or this machine's documentation → the pages and documents that all tools are measured on."""

import random
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from modelmill.tasks.errors import InputError
from modelmill.tasks.ingest.config import ExtractionConfig
from modelmill.tasks.ingest.documentation.site import DocumentationSite
from modelmill.tasks.ingest.extract import extract_rows
from modelmill.tasks.ingest.sources import DocumentationSource
from modelmill.tasks.text.row_files import read_rows
from modelmill.tasks.text.shards import write_shard

_BATCH_PAGES = 50
_PACKAGES: tuple[str, ...] = DocumentationSource.model_fields["packages"].default


@dataclass(frozen=True)
class Inputs:
    """Files: `pages` has the column html, `documents` the column text in random order. Megabytes are of UTF-8."""

    pages: Path
    documents: Path
    num_pages: int
    num_documents: int
    megabytes: float


def prepared_inputs(
    folder: Path, needs: Collection[str], labelled: Path | None, documents: Path | None, megabytes: float
) -> Inputs:
    """What the steps need (pages, documents): the files that were named, else documentation with so much text.

    Raises:
        InputError: a file is missing, cannot be read, lacks its column, or holds nothing.
    """
    pages: list[bytes] = []
    texts: list[str] = []
    if ("pages" in needs and labelled is None) or ("documents" in needs and documents is None):
        pages, texts = documentation(megabytes)
        if not texts:
            raise InputError("the documentation of this machine gave no text; name files: --labelled, --documents")
    if documents is not None:
        texts = sampled_texts(documents, megabytes)
    texts_path, pages_path = folder / "documents.parquet", labelled or folder / "pages.parquet"
    write_shard(pa.table({"text": pa.array(texts, pa.large_string())}), texts_path)
    if labelled is None:
        write_shard(pa.table({"html": pa.array(pages, pa.large_binary())}), pages_path)
        num_pages = len(pages)
    else:
        num_pages = sum(table.num_rows for table in read_rows(labelled, ("html",)))
    return Inputs(pages_path, texts_path, num_pages, len(texts), sum(len(text.encode()) for text in texts) / 1e6)


def documentation(megabytes: float, packages: tuple[str, ...] = _PACKAGES) -> tuple[list[bytes], list[str]]:
    """Pages of modules that this installation has anyway, in random order, and the main text of each that has some."""
    pages: list[bytes] = []
    texts: list[str] = []
    size = 0
    for batch in _page_batches(packages):
        kept, _ = extract_rows(pa.table({"html": pa.array(batch, pa.large_binary())}), ExtractionConfig())
        pages += batch
        texts += kept["text"].to_pylist()
        size += sum(len(text.encode()) for text in kept["text"].to_pylist())
        if size >= megabytes * 1e6:
            break
    return pages, texts


def _page_batches(packages: tuple[str, ...]) -> Iterator[list[bytes]]:
    with tempfile.TemporaryDirectory(prefix="mill-bench-") as home:
        site = DocumentationSite(packages, 1, Path(home))
        try:
            addresses = [url.removeprefix("http://").split("/", 1) for url in site.urls.values()]
            random.Random(0).shuffle(addresses)
            for first in range(0, len(addresses), _BATCH_PAGES):
                found = [site.page(host, f"/{path}") for host, path in addresses[first : first + _BATCH_PAGES]]
                yield [page.body for page in found if page]
        finally:
            site.close()


def sampled_texts(path: Path, megabytes: float) -> list[str]:
    """Random texts of a file, about so many megabytes; of a file with less, all.

    Raises:
        InputError: as `read_rows`, or no row has text.
    """
    texts = [text for table in read_rows(path, ("text",)) for text in table["text"].to_pylist() if text]
    if not texts:
        raise InputError(f"{path} holds no text")
    random.Random(0).shuffle(texts)
    taken, size = 0, 0
    while taken < len(texts) and size < megabytes * 1e6:
        size += len(texts[taken].encode())
        taken += 1
    return texts[:taken]
