"""A page of some source, or the reason that it has none → a row of the shard writer."""

from collections.abc import Callable
from pathlib import Path

from modelmill.tasks.ingest.archives import Capture
from modelmill.tasks.ingest.config import ExtractionConfig
from modelmill.tasks.ingest.decode import RejectedError
from modelmill.tasks.ingest.extract import ExtractedPage, Extractor
from modelmill.tasks.ingest.schema import ShardWriter


class Reading:
    """One call's state: limits, the extractor, the writer that rows go to, and a folder for files from servers."""

    def __init__(
        self, source: str, config: ExtractionConfig, extractor: Extractor, writer: ShardWriter, downloads: Path
    ) -> None:
        self.source, self.config, self.extractor, self.writer = source, config, extractor, writer
        self.downloads = downloads

    def add(self, row: dict[str, str], page: Callable[[], ExtractedPage], place: str = "") -> None:
        """Keep the row with what `page` returns, or drop it with the reason that it raises.

        `place`: the file and offset that a dropped row came from, for its detail.
        """
        try:
            found = page()
        except RejectedError as error:
            self.drop(row["id"], row["url"], error.reason, error.detail, place)
        else:
            title = row.get("title") or found.title
            of_page = {"source": self.source, "title": title, "text": found.text, "page_type": found.page_type}
            self.writer.keep(**row | of_page)

    def drop(self, identifier: str, url: str, reason: str, detail: str, place: str = "") -> None:
        """Count and keep a dropped row."""
        detail = "; ".join(part for part in (detail, place) if part)
        self.writer.drop(id=identifier, url=url, source=self.source, reason=reason, detail=detail)

    def extracted(self, html: str) -> ExtractedPage:
        """What the extractor makes of HTML."""
        return self.extractor.page(html)

    def captured(self, capture: Capture) -> ExtractedPage:
        """What the extractor makes of a page in an archive."""
        return self.extractor.capture(capture)
