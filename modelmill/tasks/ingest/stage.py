"""Sources of the recipe → WARC files of crawls, shards of pages, dropped rows by reason, a summary by source."""

import os
import shutil
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from modelmill.tasks.errors import InputError
from modelmill.tasks.ingest.config import Config, ExtractionConfig
from modelmill.tasks.ingest.crawl import CrawlFolders, crawl
from modelmill.tasks.ingest.files import SourceFile
from modelmill.tasks.ingest.path_lists import source_files
from modelmill.tasks.ingest.reached import reached
from modelmill.tasks.ingest.readers import DOWNLOADS, read_files
from modelmill.tasks.ingest.schema import DROPPED_SCHEMA, row_id, write_table
from modelmill.tasks.ingest.sources import AnySource, CrawlRules, DatasetSource, HtmlSource, TextSource
from modelmill.tasks.stage import Call, StageContext, StageResult

_DROPPED_SHARD_ROWS = 100_000


@dataclass
class SourceCounts:
    """What one source gave: pages met, kept, dropped by reason, and the characters of the kept ones."""

    kind: str
    rows_in: int = 0
    rows_out: int = 0
    characters: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


def run(context: StageContext) -> StageResult:
    """Crawl, read and extract all sources.

    Raises:
        InputError: a file is missing, or no page is left.
    """
    config: Config = context.config
    counts = {source.name: SourceCounts(source.kind) for source in config.sources}
    calls: list[Call] = []
    dropped_files: list[Path] = []
    seconds: dict[str, float] = {}
    for position, source in enumerate(config.sources):
        begun = time.monotonic()
        if isinstance(source, CrawlRules):
            files, refused = _crawled(source, config, context)
            dropped_files += _write_refused(context, source.name, refused)
            counts[source.name].dropped.update(row["reason"] for row in refused)
            counts[source.name].rows_in += len(refused)
            seconds[f"crawl_seconds/{source.name}"] = time.monotonic() - begun
        else:
            files = source_files(source, context.workspace / DOWNLOADS)
        calls += _calls(source, files, config, context.workspace / "shards", f"{position:02d}-{source.name}")
    begun = time.monotonic()
    results = context.pool.map(read_files, calls, "extract")
    seconds["extract_seconds"] = time.monotonic() - begun
    for call, result in zip(calls, results, strict=True):
        _count(counts[call.arguments["source"].name], result)
    _raise_if_empty(counts)
    shards = context.workspace / "shards"
    _place([shards / name for result in results for name in result["shards"]], context.output / "pages")
    dropped_files += [shards / name for result in results for name in result["dropped_shards"]]
    _place(dropped_files, context.output / "dropped")
    return _result(counts, seconds)


def _crawled(
    source: CrawlRules, config: Config, context: StageContext
) -> tuple[list[SourceFile], list[dict[str, str]]]:
    """The WARC files of a crawl that hold pages, and the URLs that gave none."""
    folders = CrawlFolders(context.output / "warc", context.workspace / "crawl")
    with reached(source, max(context.pool.num_workers, 1), config.limits.page_bytes) as on_web:
        reports = crawl(on_web, config.limits.page_bytes, folders, context.journal)
    outcomes = [outcome for report in reports for outcome in report["outcomes"]]
    refused = [
        {
            "id": row_id(outcome["url"]),
            "url": outcome["url"],
            "source": source.name,
            "reason": outcome["reason"],
            "detail": outcome["detail"],
        }
        for outcome in outcomes
        if outcome["reason"]
    ]
    return [SourceFile(report["warc"], str(folders.warc / report["warc"])) for report in reports], refused


def _calls(source: AnySource, files: list[SourceFile], config: Config, folder: Path, prefix: str) -> list[Call]:
    """One call a file; many small files of pages together; one for a data set."""
    size = config.shard_pages if isinstance(source, HtmlSource | TextSource) else 1
    groups = [files[start : start + size] for start in range(0, len(files), size)]
    if isinstance(source, DatasetSource):
        groups = [files]
    settings = ExtractionConfig(**{name: getattr(config, name) for name in ExtractionConfig.model_fields})
    return [
        Call(
            f"{prefix}-{number:05d}",
            {
                "source": source,
                "files": group,
                "config": settings,
                "folder": folder,
                "prefix": f"{prefix}-{number:05d}",
            },
        )
        for number, group in enumerate(groups)
    ]


def _write_refused(context: StageContext, name: str, refused: list[dict[str, str]]) -> list[Path]:
    paths = []
    for start in range(0, len(refused), _DROPPED_SHARD_ROWS):
        paths.append(context.workspace / "shards" / f"{name}-refused-{len(paths):03d}.parquet")
        rows = refused[start : start + _DROPPED_SHARD_ROWS]
        write_table(paths[-1], pa.Table.from_pylist(rows, schema=DROPPED_SCHEMA))
    return paths


def _count(counts: SourceCounts, result: dict[str, Any]) -> None:
    counts.rows_in += result["rows_in"]
    counts.rows_out += result["rows_out"]
    counts.characters += result["characters"]
    counts.dropped.update(result["dropped"])


def _raise_if_empty(counts: dict[str, SourceCounts]) -> None:
    if any(source.rows_out for source in counts.values()):
        return
    found = [
        f"{name}: {source.rows_in} read, "
        + (", ".join(f"{number} {reason}" for reason, number in source.dropped.most_common()) or "nothing in it")
        for name, source in counts.items()
    ]
    raise InputError(
        f"no page is left after ingest ({'; '.join(found)}). Expected at least one page with text: look at the "
        "reasons, then correct the sources or the limits of the recipe's `ingest` part and run again."
    )


def _place(files: list[Path], folder: Path) -> None:
    """Number the shards in the order of the recipe. Links cost no space, and leave the shards to a killed run."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, file in enumerate(files):
        target = folder / f"part-{number:05d}.parquet"
        target.unlink(missing_ok=True)
        try:
            os.link(file, target)
        except OSError:  # a file system without hard links
            shutil.copyfile(file, target)


def _result(counts: dict[str, SourceCounts], seconds: dict[str, float]) -> StageResult:
    dropped: Counter[str] = Counter()
    for source in counts.values():
        dropped.update(source.dropped)
    rows_in = sum(source.rows_in for source in counts.values())
    rows_out = sum(source.rows_out for source in counts.values())
    characters = sum(source.characters for source in counts.values())
    extract_seconds = max(seconds["extract_seconds"], 1e-9)
    metrics = {
        "characters": float(characters),
        "pages_per_extract_second": rows_out / extract_seconds,
        **seconds,
    }
    return StageResult(rows_in, rows_out, "pages", dict(sorted(dropped.items())), metrics, summary(counts))


def summary(counts: dict[str, SourceCounts]) -> str:
    """A markdown table by source, and one of the reasons."""
    lines = ["| source | kind | met | pages | million characters | dropped |", "|---|---|---:|---:|---:|---|"]
    for name, source in counts.items():
        reasons = ", ".join(f"{reason} {number:,}" for reason, number in source.dropped.most_common()) or "none"
        lines.append(
            f"| {name} | {source.kind} | {source.rows_in:,} | {source.rows_out:,} | {source.characters / 1e6:.2f} "
            f"| {reasons} |"
        )
    return "\n".join(lines) + "\n"
