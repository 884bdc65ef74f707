# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
"""Rows of the stage → Parquet shards: pages that were kept, and dropped ones with their reasons."""

import email.utils
import hashlib
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from modelmill.tasks.files import atomic_path

PAGE_SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "url", "date", "source", "title", "page_type", "text")])
DROPPED_SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "url", "source", "reason", "detail")])
_FIRST_WEB_YEAR = 1990
# What a writer holds of pages (as much as many workers can hold side by side), and of dropped rows.
_MAX_CHARACTERS = 256_000_000
_DROPPED_ROWS = 50_000


def row_id(*parts: str) -> str:
    """128 bits of a hash over the parts: among a trillion rows two of one id are not to be expected."""
    return hashlib.blake2b("\0".join(parts).encode("utf-8", errors="replace"), digest_size=16).hexdigest()


def iso_date(moment: datetime) -> str:
    """ISO 8601 in UTC, to the second; empty for the moments at both ends of the calendar that UTC cannot name."""
    try:
        moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except OverflowError:
        return ""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def page_date(last_modified: str, fetched: str) -> str:
    """When a page was last changed, if its server says so and the claim is possible; otherwise when it was fetched."""
    try:
        changed = email.utils.parsedate_to_datetime(last_modified)
    except (TypeError, ValueError, OverflowError):
        return fetched
    date = iso_date(changed)
    return date if date and changed.year >= _FIRST_WEB_YEAR and (not fetched or date <= fetched) else fetched


def write_table(path: Path, table: pa.Table) -> None:
    """One Parquet file, whole or not at all."""
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


class ShardWriter:
    """Collects the rows of one call into shards of `shard_pages` rows, named `<prefix>-000.parquet` and so on.

    A shard of very long pages has fewer.
    """

    def __init__(self, folder: Path, prefix: str, shard_pages: int) -> None:
        self._folder, self._prefix, self._shard_pages = folder, prefix, shard_pages
        self._pages: dict[str, list[str]] = {name: [] for name in PAGE_SCHEMA.names}
        self._dropped: dict[str, list[str]] = {name: [] for name in DROPPED_SCHEMA.names}
        self._held = 0  # characters
        self._dropped_shards: list[str] = []
        self.shards: list[str] = []
        self.rows_out = 0
        self.characters = 0
        self.reasons: Counter[str] = Counter()

    def keep(self, **row: str) -> None:
        """Add a page (the columns of PAGE_SCHEMA)."""
        for name in PAGE_SCHEMA.names:
            self._pages[name].append(row[name])
        self.rows_out += 1
        self.characters += len(row["text"])
        self._held += sum(map(len, row.values()))
        if len(self._pages["id"]) >= self._shard_pages or self._held >= _MAX_CHARACTERS:
            self._write_pages()

    def drop(self, **row: str) -> None:
        """Add a dropped page (the columns of DROPPED_SCHEMA)."""
        for name in DROPPED_SCHEMA.names:
            self._dropped[name].append(row[name])
        self.reasons[row["reason"]] += 1
        if len(self._dropped["id"]) >= _DROPPED_ROWS:
            self._write_dropped()

    def keep_table(self, table: pa.Table) -> None:
        """Add many pages at once, cut into shards; the rows collected so far go before them."""
        self._write_pages()
        self.characters += pc.sum(pc.utf8_length(table["text"])).as_py() or 0
        self.rows_out += table.num_rows
        for start in range(0, table.num_rows, self._shard_pages):
            self._write(table.slice(start, self._shard_pages))

    def close(self) -> dict[str, object]:
        """Write what is left; the counts of this call as JSON."""
        self._write_pages()
        self._write_dropped()
        return {
            "rows_in": self.rows_out + self.reasons.total(),
            "rows_out": self.rows_out,
            "dropped": dict(sorted(self.reasons.items())),
            "characters": self.characters,
            "shards": self.shards,
            "dropped_shards": self._dropped_shards,
        }

    def _write_pages(self) -> None:
        if self._pages["id"]:
            self._write(pa.table(self._pages, schema=PAGE_SCHEMA))
            self._pages = {name: [] for name in PAGE_SCHEMA.names}
            self._held = 0

    def _write_dropped(self) -> None:
        if self._dropped["id"]:
            self._dropped_shards.append(f"{self._prefix}.dropped-{len(self._dropped_shards):03d}.parquet")
            path = self._folder / self._dropped_shards[-1]
            write_table(path, pa.table(self._dropped, schema=DROPPED_SCHEMA))
            self._dropped = {name: [] for name in DROPPED_SCHEMA.names}

    def _write(self, table: pa.Table) -> None:
        self.shards.append(f"{self._prefix}-{len(self.shards):03d}.parquet")
        write_table(self._folder / self.shards[-1], table)
