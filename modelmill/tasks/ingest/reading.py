"""A page of some source, or the reason that it has none → a row of the shard writer."""

from collections.abc import Callable
from pathlib import Path

from modelmill.tasks.ingest.archives import Capture
from modelmill.tasks.ingest.config import ExtractionConfig
from modelmill.tasks.ingest.decode import RejectedError
from modelmill.tasks.ingest.extract import Extractor
from modelmill.tasks.ingest.schema import ShardWriter


class Reading:
    """One call's state: limits, the extractor, the writer that rows go to, and a folder for files from servers."""

    def __init__(
        self, source: str, config: ExtractionConfig, extractor: Extractor, writer: ShardWriter, downloads: Path
    ) -> None:
        self.source, self.config, self.extractor, self.writer = source, config, extractor, writer
        self.downloads = downloads

    def add(self, row: dict[str, str], page: Callable[[], tuple[str, str]], place: str = "") -> None:
        """Keep the row with the title and text that `page` returns, or drop it with the reason that it raises.

        `place`: the file and offset that a dropped row came from, for its detail.
        """
        try:
            title, text = page()
        except RejectedError as error:
            self.drop(row["id"], row["url"], error.reason, error.detail, place)
        else:
            self.writer.keep(**row | {"source": self.source, "title": row.get("title") or title, "text": text})

    def drop(self, identifier: str, url: str, reason: str, detail: str, place: str = "") -> None:
        """Count and keep a dropped row."""
        detail = "; ".join(part for part in (detail, place) if part)
        self.writer.drop(id=identifier, url=url, source=self.source, reason=reason, detail=detail)

    def extracted(self, html: str) -> tuple[str, str]:
        """Title and main text of HTML."""
        page = self.extractor.page(html)
        return page.title, page.text

    def captured(self, capture: Capture) -> tuple[str, str]:
        """Title and main text of a page in an archive."""
        page = self.extractor.capture(capture)
        return page.title, page.text
