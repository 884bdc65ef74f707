"""Recipe part `ingest` → which sources to read or crawl, how to extract text, and the limits that hold."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from modelmill.tasks.files import file_digest
from modelmill.tasks.ingest.documentation.catalog import package_version
from modelmill.tasks.ingest.files import expand, is_remote
from modelmill.tasks.ingest.folder_site import site_digest
from modelmill.tasks.ingest.sources import (
    AnySource,
    DatasetSource,
    DocumentationSource,
    FoldersSource,
    WarcSource,
    WetSource,
    is_path_list,
)
from modelmill.tasks.stage import StageConfig


class Limits(StageConfig):
    """What a page may cost before it is dropped with a reason."""

    page_bytes: int = Field(default=4_000_000, ge=1)
    """Largest page, before and after its Content-Encoding is undone; larger ones are dropped as `too_large`."""
    nesting: int = Field(default=1_000, ge=1)
    """Deepest nesting of tags; deeper pages are dropped as `too_deep`, since the parsers of trafilatura and resiliparse
    take quadratic time on them. Modelmill's does not, and reads them."""
    extract_seconds: float = Field(default=5.0, gt=0, json_schema_extra={"placement": True})
    """Time for one page's extraction; then its process is ended and the page dropped as `too_slow`."""
    extract_megabytes: int = Field(default=1_000, ge=100, json_schema_extra={"placement": True})
    """Memory of the extraction process; a page that needs more is dropped as `extractor_failed`."""
    text_characters: int = Field(default=2_000_000, ge=1)
    """Longest text of a page; longer ones are dropped as `too_large`."""


class ExtractionConfig(StageConfig):
    """How main text is taken out of HTML; all that `mill apply extract` needs."""

    extractor: Literal["modelmill", "trafilatura", "resiliparse", "union"] = "modelmill"
    """modelmill scores every block of a page by a small model (word F1 0.88 on pages of hosts that it has not seen);
    trafilatura reads articles as well, other types of pages worse (0.82), at a twentieth of the speed; resiliparse
    keeps more of everything (0.77); union is modelmill with what one of the others keeps besides, for more text."""
    shard_pages: int = Field(default=2_000, ge=1)
    """Rows a Parquet file; also how many small files one worker reads in one go."""
    limits: Limits = Limits()


class Config(ExtractionConfig):
    """Sources are read in the order given; each is a few lines."""

    sources: tuple[AnySource, ...] = Field(min_length=1)

    @field_validator("sources")
    @classmethod
    def _names_are_unique(cls, sources: tuple[AnySource, ...]) -> tuple[AnySource, ...]:
        names = [source.name for source in sources]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"two sources are named {', '.join(repeated)}: give each source its own name")
        return sources


def external_digests(config: Config) -> dict[str, str]:
    """What the stage reads from outside: contents of local files, addresses of remote ones, releases of packages.

    Raises:
        InputError: a local path or glob names no file, or a folder that is to be served has no page.
        RecipeError: a package of a documentation source is not installed.
    """
    digests: dict[str, str] = {}
    for source in config.sources:
        for name, digest in _source_digests(source).items():
            digests[f"{source.name}/{name}"] = digest
    return digests


def _source_digests(source: AnySource) -> dict[str, str]:
    if isinstance(source, DocumentationSource):
        return {package: package_version(package) for package in source.packages}
    if isinstance(source, FoldersSource):
        return {site.host: site_digest(site) for site in source.sites}
    paths = source.data_files if isinstance(source, DatasetSource) else getattr(source, "paths", ())
    digests = {}
    for file in expand(paths, source.name):
        digests[file.name] = file.address if is_remote(file.address) else file_digest(Path(file.address))
    if isinstance(source, WarcSource | WetSource) and any(is_path_list(path) for path in paths):
        digests["prefix"] = source.prefix if is_remote(source.prefix) else "local"
    return digests
