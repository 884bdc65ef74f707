"""Kinds of sources as a recipe names them → frozen configurations: what to crawl or read, and where it lies."""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from modelmill.tasks.errors import RecipeError
from modelmill.tasks.ingest.addresses import Reach, origin
from modelmill.tasks.ingest.documentation.catalog import STANDARD_LIBRARY
from modelmill.tasks.ingest.files import address_problem, is_http
from modelmill.tasks.ingest.folder_site import FolderSite
from modelmill.tasks.ingest.guarded_client import Download
from modelmill.tasks.names import FileName
from modelmill.tasks.placeholders import redacted
from modelmill.tasks.stage import StageConfig

DocumentationPackages = tuple[str, ...]
COMMON_CRAWL = "https://data.commoncrawl.org/"
_SCIENTIFIC_PACKAGES = ("numpy", "pandas", "pyarrow", "scipy", "sklearn", "sympy")


class Source(StageConfig):
    """What every kind of source has."""

    name: FileName
    """Shown in reports and written to the column `source`; unique in the recipe."""
    edition: str = ""
    """A label such as a date. The content of an address is not known before it is read: change the label to
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
    """Upper limit of back-off, Retry-After and Crawl-delay; pages of a host that demands more are dropped."""


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

    @field_validator("start")
    @classmethod
    def _start_names_no_secret(cls, start: tuple[str, ...]) -> tuple[str, ...]:
        if any("${" in url or urlsplit(url).username for url in start):
            raise ValueError(
                "a crawl takes what anybody may read, and its archives keep every URL: expected URLs without a user "
                "name and without ${NAME}"
            )
        return start


class DocumentationSource(CrawlRules):
    """A site that every machine has: pydoc pages of installed packages, served on loopback and crawled."""

    kind: Literal["documentation"]
    packages: DocumentationPackages = (STANDARD_LIBRARY, *_SCIENTIFIC_PACKAGES)
    """Installed packages; `stdlib` is the whole standard library, and one of its modules may be named alone."""
    depth: int = Field(default=3, ge=0)
    politeness: Politeness = Field(
        default=Politeness(
            requests_per_second=10_000,
            connections_per_host=4,
            backoff_seconds=0.1,
            # A page that a busy machine renders slowly is a page all the same.
            read_seconds=600,
            page_seconds=600,
        ),
        json_schema_extra={"placement": True},
    )


class FoldersSource(CrawlRules):
    """Folders of HTML on this machine, such as documentation packages: served on loopback and crawled like the web."""

    kind: Literal["folders"]
    sites: tuple[FolderSite, ...] = Field(min_length=1)
    exclude: tuple[str, ...] = ()
    """Regular expressions; a URL in which one is found is not fetched."""
    depth: int = Field(default=8, ge=0)
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


class RemoteSource(Source):
    """A source that may lie on servers. Only the hosts that it names may have private addresses, and only they."""

    download: Download = Field(default=Download(), json_schema_extra={"placement": True})
    allow_hosts: tuple[str, ...] = Field(default=(), json_schema_extra={"placement": True})
    """Other hosts that may have private, loopback or link-local addresses: where a server may redirect to, or a path
    list may lead. Refused otherwise."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """What the recipe names as places to read from."""
        raise NotImplementedError

    @property
    def reach(self) -> Reach:
        """The hosts that may be private: those of the recipe's addresses on their ports, and `allow_hosts`."""
        return Reach.of(self.allow_hosts, (origin(address) for address in self.addresses if is_http(address)))

    @model_validator(mode="after")
    def _addresses_are_readable(self) -> "RemoteSource":
        for address in self.addresses:
            if problem := address_problem(address):
                raise ValueError(f"{redacted(address)}: {problem}")
        return self


class FileSource(RemoteSource):
    """A source of files. `paths` are placement: the files' names and contents enter the key instead."""

    paths: tuple[str, ...] = Field(min_length=1, json_schema_extra={"placement": True})
    """Local paths and globs (`**` reaches into folders), HTTP(S) or s3:// URLs. A secret in a URL is written
    `${NAME}`: its value is that of MILL_SECRET_NAME in the environment, or of secrets/sources/NAME in the home."""

    @property
    def addresses(self) -> tuple[str, ...]:
        return self.paths


class _ArchiveSource(FileSource):
    prefix: str = Field(default=COMMON_CRAWL, json_schema_extra={"placement": True})
    """Put before each line of a path list (a `.paths` or `.paths.gz` file, as Common Crawl publishes them)."""
    max_files: int | None = Field(default=None, ge=1)
    """Take only the first files of the sorted list."""

    @property
    def addresses(self) -> tuple[str, ...]:
        return (*self.paths, self.prefix)


class WarcSource(_ArchiveSource):
    """WARC or ARC archives of any crawler."""

    kind: Literal["warc"]
    content_types: tuple[str, ...] = ("text/html", "application/xhtml+xml")


class WetSource(_ArchiveSource):
    """WARC archives of plain text (`conversion` records), as Common Crawl publishes them."""

    kind: Literal["wet"]


class CommonCrawlSource(RemoteSource):
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
    content_types: tuple[str, ...] = ("text/html", "application/xhtml+xml")

    @property
    def addresses(self) -> tuple[str, ...]:
        return (self.prefix,)

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


class DatasetSource(RemoteSource):
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

    @property
    def addresses(self) -> tuple[str, ...]:
        return self.data_files

    @model_validator(mode="after")
    def _path_is_no_url(self) -> "DatasetSource":
        if "://" in self.path or "::" in self.path:
            raise ValueError(
                "`path` is a URL, expected the name of a data set, a folder, or a builder: give URLs as `data_files` "
                "of the builder json, parquet, csv or text"
            )
        return self


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


def is_path_list(path: str) -> bool:
    """Whether a path names a list of archive paths rather than an archive."""
    return path.partition("?")[0].endswith((".paths", ".paths.gz"))


def source_error(name: str, problem: str) -> RecipeError:
    """An error about one source of the recipe."""
    return RecipeError(f"ingest source {name!r}: {problem}")
