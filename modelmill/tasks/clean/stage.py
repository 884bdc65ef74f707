"""pages/part-*.parquet → documents/part-*.parquet with language and language_score, and dropped/ with reasons."""

from pathlib import Path
from typing import Any

import polars as pl

from modelmill.tasks.clean.config import Config
from modelmill.tasks.clean.distribution import count_shard as count_words
from modelmill.tasks.clean.distribution import merged, read_counts, write_counts
from modelmill.tasks.clean.personal.domains import count_shard, dense_domains
from modelmill.tasks.clean.rules import clean_table
from modelmill.tasks.clean.verdict import merged_counts
from modelmill.tasks.errors import InputError
from modelmill.tasks.stage import Call, StageContext, StageResult
from modelmill.tasks.text.shards import read_shard, shard_paths, write_shard


def run(context: StageContext) -> StageResult:
    """Clean each shard of pages on its own.

    Raises:
        InputError: no page passed the rules.
    """
    sources = shard_paths(context.latest("pages").path / "pages")
    dense = _dense_domains(context, sources) if context.config.personal_data.dense_domains.enabled else None
    counts = _counted(context, sources) if context.config.token_distribution.enabled else None
    arguments = {"output": context.output, "config": context.config, "dense_domains": dense, "counts": counts}
    calls = [Call(source.name, {"source": source, **arguments}) for source in sources]
    reports = context.pool.map(clean_shard, calls, "clean")
    dropped = merged_counts([report["dropped"] for report in reports])
    redacted = merged_counts([report["redacted"] for report in reports])
    result = StageResult(
        rows_in=sum(report["rows_in"] for report in reports),
        rows_out=sum(report["rows_out"] for report in reports),
        unit="documents",
        dropped=dropped,
        metrics={f"redacted_{kind}": float(count) for kind, count in redacted.items() if count},
    )
    if result.rows_out == 0:
        raise InputError(
            f"clean dropped all {result.rows_in} pages ({_listed(dropped)}); "
            "relax the thresholds of the first reasons in the recipe, or look at the pages that ingest made"
        )
    result.summary = _summary(result, redacted, dense)
    return result


def _dense_domains(context: StageContext, sources: list[Path]) -> Path:
    """Count personal data by domain in all shards → the list of domains to drop, which stays in the artifact."""
    parts = [context.workspace / "domains" / source.name for source in sources]
    calls = [Call(source.name, {"source": source, "output": part}) for source, part in zip(sources, parts, strict=True)]
    context.pool.map(count_shard, calls, "domains")
    rules = context.config
    dense = dense_domains(parts, rules.personal_data.dense_domains, rules.url.allowed_domains)
    path = context.output / "report" / "dense_domains.parquet"
    write_shard(dense.to_arrow(), path)
    return path


def _counted(context: StageContext, sources: list[Path]) -> Path:
    """The file with the words of all pages by language, counted shard by shard."""
    folder = context.workspace / "words"
    parts = [folder / f"{source.stem}.npz" for source in sources]
    calls = [Call(part.name, {"source": source, "target": part}) for source, part in zip(sources, parts, strict=True)]
    context.pool.map(count_words, calls, "count words")
    target = folder / "all.npz"
    write_counts(merged(map(read_counts, parts)), target)
    return target


def clean_shard(
    source: Path | str,
    output: Path | str,
    config: Config,
    dense_domains: Path | None = None,
    counts: Path | None = None,
) -> dict[str, Any]:
    """Clean one shard → kept and dropped shards of the same name under `output`; returns counts.

    dense_domains, counts: files with domains to drop and with the words of all pages, where the recipe asks for them.
    """
    table = read_shard(Path(source))
    cleaned = clean_table(table, config, dense_domains, read_counts(counts) if counts else None)
    name = Path(source).name
    write_shard(cleaned.kept, Path(output) / "documents" / name)
    write_shard(cleaned.dropped, Path(output) / "dropped" / name)
    reasons = cleaned.dropped["reason"].value_counts().to_pylist()
    return {
        "rows_in": table.num_rows,
        "rows_out": cleaned.kept.num_rows,
        "dropped": {entry["values"]: entry["counts"] for entry in reasons},
        "redacted": cleaned.redacted,
    }


def _listed(counts: dict[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} {count}" for name, count in ordered)


def _summary(result: StageResult, redacted: dict[str, int], dense: Path | None) -> str:
    lines = [f"{result.rows_out} of {result.rows_in} pages kept.", "", "| reason | pages |", "|---|---|"]
    lines += [f"| {name} | {count} |" for name, count in sorted(result.dropped.items(), key=lambda item: -item[1])]
    if redacted:
        lines += ["", "Replaced in the kept text: " + _listed(redacted) + "."]
    if dense:
        lines += ["", *_listed_domains(pl.read_parquet(dense))]
    return "\n".join(lines)


def _listed_domains(dense: pl.DataFrame) -> list[str]:
    """The domains that were dropped whole, densest first; the file has them all."""
    worst = dense.sort("density", "domain", descending=[True, False]).head(20)
    head = f"{dense.height} domains dropped for the density of personal data (report/dense_domains.parquet)"
    return [head + (":" if dense.height else "."), "", "| domain | pages | per 1,000 characters |", "|---|---|---|"] + [
        f"| {row['domain']} | {row['documents']} | {row['density']:.2f} |" for row in worst.to_dicts()
    ]
