"""Recipe part `ingest` → which sources to read or crawl, how to extract text, and the limits that hold."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from modelmill.tasks.errors import RecipeError
from modelmill.tasks.files import file_digest
from modelmill.tasks.ingest.documentation.catalog import STANDARD_LIBRARY, package_version
from modelmill.tasks.ingest.files import expand, is_remote
from modelmill.tasks.ingest.folder_site import FolderSite, site_digest
from modelmill.tasks.ingest.remote import Download
from modelmill.tasks.names import FileName
from modelmill.tasks.stage import StageConfig

DocumentationPackages = tuple[str, ...]
COMMON_CRAWL = "https://data.commoncrawl.org/"
_SCIENTIFIC_PACKAGES = ("numpy", "pandas", "pyarrow", "scipy", "sklearn", "sympy")


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


class Source(StageConfig):
    """What every kind of source has."""

    name: FileName
    """Shown in reports and written to the column `source`; unique in the recipe."""
    edition: str = ""
    """A label such as a date. What lies behind an address is not known before it is read: change the label to
    read it again."""


class Politeness(StageConfig):
    """How gently a crawl treats the hosts it visits. All of it is placement: it changes when, not what."""

    requests_per_second: float = Field(default=1.0, gt=0)
    """Per host; a longer Crawl-delay in its robots.txt wins."""
    connections_per_host: int = Field(default=1, ge=1)
    connections: int = Field(default=32, ge=1)
    """Over all hosts."""
    connect_seconds: float = Field(default=10.0, gt=0)
    read_seconds: float = Field(default=20.0, gt=0)
    """Longest wait for the next bytes."""
    page_seconds: float = Field(default=60.0, gt=0)
    """Longest time for one whole response."""
    attempts: int = Field(default=4, ge=1)
    """For 429, 5xx and broken connections, with exponential back-off."""
    backoff_seconds: float = Field(default=1.0, ge=0)
    """First wait before another attempt; each later one doubles."""
    longest_wait_seconds: float = Field(default=120.0, ge=0)
    """Upper limit of back-off, Retry-After and Crawl-delay; a host that asks for more gives no page."""


class CrawlRules(Source):
    """What a crawl takes."""

    pages: int = Field(ge=1)
    """Most URLs to fetch; nearer to the start first, then in an order that mixes hosts."""
    depth: int = Field(default=3, ge=0)
    """Links to follow from a start page."""
    content_types: tuple[str, ...] = ("text/html", "application/xhtml+xml")
    batch_pages: int = Field(default=100, ge=1)
    """Pages a WARC file, which is also what an interrupted crawl loses at most."""
    politeness: Politeness = Field(default=Politeness(), json_schema_extra={"placement": True})
    user_agent: str = "modelmill"
    """The name that robots.txt rules are looked up for; sent with a contact where `contact` is given."""
    contact: str = Field(default="", json_schema_extra={"placement": True})
    """A page or address where operators of visited sites reach you. Give one when you crawl the open web."""


class CrawlSource(CrawlRules):
    """Modelmill's own polite crawler."""

    kind: Literal["crawl"]
    start: tuple[str, ...] = Field(min_length=1)
    """URLs to begin with."""
    hosts: tuple[str, ...] = ()
    """Hosts to stay on, subdomains included; empty means the hosts of `start`."""
    allow_hosts: tuple[str, ...] = ()
    """Hosts that may resolve to private, loopback or link-local addresses; refused otherwise."""
    connect_to: dict[str, str] = Field(default={}, json_schema_extra={"placement": True})
    """Host → address:port to connect to instead; records keep the host's name."""
    exclude: tuple[str, ...] = ()
    """Regular expressions; a URL in which one is found is not fetched."""


class DocumentationSource(CrawlRules):
    """A site that every machine has: pydoc pages of installed packages, served on loopback and crawled."""

    kind: Literal["documentation"]
    packages: DocumentationPackages = (STANDARD_LIBRARY, *_SCIENTIFIC_PACKAGES)
    """Installed packages; `stdlib` is the whole standard library, and one of its modules may be named alone."""
    depth: int = 3
    politeness: Politeness = Field(
        default=Politeness(requests_per_second=10_000, connections_per_host=4, backoff_seconds=0.1),
        json_schema_extra={"placement": True},
    )


class FoldersSource(CrawlRules):
    """Folders of HTML on this machine, such as documentation packages: served on loopback and crawled like the web."""

    kind: Literal["folders"]
    sites: tuple[FolderSite, ...] = Field(min_length=1)
    exclude: tuple[str, ...] = ()
    """Regular expressions; a URL in which one is found is not fetched."""
    depth: int = 8
    politeness: Politeness = Field(
        default=Politeness(requests_per_second=10_000, connections_per_host=4, backoff_seconds=0.1),
        json_schema_extra={"placement": True},
    )

    @field_validator("sites")
    @classmethod
    def _hosts_are_unique(cls, sites: tuple[FolderSite, ...]) -> tuple[FolderSite, ...]:
        if repeated := sorted({site.host for site in sites if [other.host for other in sites].count(site.host) > 1}):
            raise ValueError(f"two sites have the host {', '.join(repeated)}: give each folder a host of its own")
        return sites


class FileSource(Source):
    """A source of files. `paths` are placement: the files' names and contents enter the key instead."""

    paths: tuple[str, ...] = Field(min_length=1, json_schema_extra={"placement": True})
    """Local paths and globs (`**` reaches into folders), HTTP(S) or s3:// URLs."""
    download: Download = Field(default=Download(), json_schema_extra={"placement": True})


class _ArchiveSource(FileSource):
    prefix: str = Field(default=COMMON_CRAWL, json_schema_extra={"placement": True})
    """Put before each line of a path list (a `.paths` or `.paths.gz` file, as Common Crawl publishes them)."""
    max_files: int | None = Field(default=None, ge=1)
    """Take only the first files of the sorted list."""


class WarcSource(_ArchiveSource):
    """WARC or ARC archives of any crawler."""

    kind: Literal["warc"]
    content_types: tuple[str, ...] = ("text/html", "application/xhtml+xml")


class WetSource(_ArchiveSource):
    """WARC archives of plain text (`conversion` records), as Common Crawl publishes them."""

    kind: Literal["wet"]


class CommonCrawlSource(Source):
    """WARC files of a crawl that Common Crawl published: its list of paths is read, then the files, one at a time."""

    kind: Literal["common_crawl"]
    crawl: str = Field(pattern=r"^CC-MAIN-\d{4}-\d{2}$")
    """Name of the crawl, such as CC-MAIN-2025-30 (year and week); https://commoncrawl.org/get-started lists them."""
    files: int = Field(ge=1)
    """How many files, in the order of their sorted paths; one has about 1 GB and 30,000 to 40,000 pages."""
    first_file: int = Field(default=0, ge=0)
    """How many to leave out before them."""
    prefix: str = Field(default=COMMON_CRAWL, json_schema_extra={"placement": True})
    """Where the crawl lies: Common Crawl's server, a mirror, s3://commoncrawl/, or a folder with the same paths."""
    download: Download = Field(default=Download(), json_schema_extra={"placement": True})
    content_types: tuple[str, ...] = ("text/html", "application/xhtml+xml")

    @property
    def path_list(self) -> str:
        """Address of the list of the crawl's WARC files."""
        return f"{self.prefix}crawl-data/{self.crawl}/warc.paths.gz"


class HtmlSource(FileSource):
    """Folders or globs of HTML files; a page's URL is its path below the folder."""

    kind: Literal["html"]
    base_url: str = ""
    """Put before each file's path to make its URL."""


class TextSource(FileSource):
    """Folders or globs of plain text files, one document a file."""

    kind: Literal["text"]


class Columns(StageConfig):
    """Which column of a row holds what; a column that does not exist is left empty, but for the text."""

    text: str = "text"
    html: str = ""
    """Extract this column instead of reading `text`."""
    id: str = "id"
    url: str = "url"
    date: str = "date"
    title: str = "title"


class JsonlSource(FileSource):
    """JSON lines, plain or compressed with gzip."""

    kind: Literal["jsonl"]
    columns: Columns = Columns()


class ParquetSource(FileSource):
    """Parquet files."""

    kind: Literal["parquet"]
    columns: Columns = Columns()


class DatasetSource(Source):
    """A Hugging Face data set, streamed (`datasets.load_dataset`)."""

    kind: Literal["dataset"]
    path: str
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    """A commit of the data set; name one where the result must be reproducible."""
    data_files: tuple[str, ...] = Field(default=(), json_schema_extra={"placement": True})
    """For the builders `json`, `parquet`, `csv` and `text`: local files, globs or URLs."""
    max_rows: int | None = Field(default=None, ge=1)
    columns: Columns = Columns()


AnySource = Annotated[
    CrawlSource
    | DocumentationSource
    | FoldersSource
    | WarcSource
    | WetSource
    | CommonCrawlSource
    | HtmlSource
    | JsonlSource
    | ParquetSource
    | TextSource
    | DatasetSource,
    Field(discriminator="kind"),
]


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


def is_path_list(path: str) -> bool:
    """Whether a path names a list of archive paths rather than an archive."""
    return path.endswith((".paths", ".paths.gz"))


def source_error(name: str, problem: str) -> RecipeError:
    """An error about one source of the recipe."""
    return RecipeError(f"ingest source {name!r}: {problem}")
