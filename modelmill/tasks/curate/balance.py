"""Bytes of the kept documents by group, and greatest shares → which documents of a group that is over its share go.

Llama 3 (§3.1.2) downsamples kinds of knowledge of which the web has too much, dots.llm1 (C.3) balances 200 categories.
Whether a document goes is decided by a hash of its id alone, so the choice does not depend on shards, order or workers.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from modelmill.tasks.curate.config import Config, Shares
from modelmill.tasks.curate.parts import kept_counts, write_table
from modelmill.tasks.curate.split import LARGEST
from modelmill.tasks.stage import Call, StageContext

DOWNSAMPLED = "downsampled_"
# Shares of one column move those of another.
MAX_ROUNDS = 100
TOLERANCE = 1e-4

Rates = dict[str, dict[str, float]]


def balanced_scores(
    context: StageContext, surveys: Sequence[Path], scores: Sequence[Path]
) -> tuple[list[Path], list[dict[str, Any]], dict[str, Any]]:
    """Apply the recipe's shares → the new score files, what `select_part` returns for each, and the shares reached."""
    config: Config = context.config
    names = list(config.shares.columns)
    calls = [
        Call(path.stem, {"survey": str(survey), "scores": str(path), "columns": names})
        for survey, path in zip(surveys, scores, strict=True)
    ]
    counted = context.pool.map(count_groups, calls, "count groups")
    cells = pl.concat(
        [pl.DataFrame(each, schema={**dict.fromkeys(names, pl.String), "bytes": pl.Int64}) for each in counted]
    )
    rates = keep_rates(cells.group_by(names).agg(pl.col("bytes").sum()).sort(names), config.shares)
    outputs = [context.workspace / "balanced" / path.name for path in scores]
    calls = [
        Call(
            path.stem,
            {"survey": str(survey), "scores": str(path), "output": str(output), "rates": rates, "config": config},
        )
        for survey, path, output in zip(surveys, scores, outputs, strict=True)
    ]
    marked = context.pool.map(balance_part, calls, "balance")
    report = _reached(cells, [each["groups"] for each in marked], rates, config.shares)
    return outputs, marked, report


def count_groups(survey: str, scores: str, columns: list[str]) -> list[dict[str, Any]]:
    """Bytes of a part's kept documents by combination of groups."""
    rows = group_rows(survey, scores).filter(pl.col("reason").is_null())
    return rows.group_by(columns).agg(pl.col("bytes").sum()).sort(columns).to_dicts()


def balance_part(survey: str, scores: str, output: str, rates: Rates, config: Config) -> dict[str, Any]:
    """A part's scores with the reason of what goes here; returns what is kept by domain, and the bytes by group."""
    rows = group_rows(survey, scores)
    keep, strongest, group = np.ones(len(rows)), np.ones(len(rows)), np.full(len(rows), "", object)
    for column, of_group in rates.items():
        names = rows[column].to_list()
        rate = np.array([of_group.get(name, 1.0) for name in names])
        group = np.where(rate < strongest, np.array(names, object), group)
        strongest = np.minimum(rate, strongest)
        keep *= rate
    goes = rows["keep_hash"].to_numpy().astype(np.float64) >= keep * LARGEST
    downsampled = pl.Series([f"{DOWNSAMPLED}{name}" for name in group], dtype=pl.String)
    rows = rows.with_columns(
        reason=pl.when(pl.Series(goes) & pl.col("reason").is_null()).then(downsampled).otherwise("reason")
    )
    table, reason = pq.read_table(scores), rows["reason"].to_arrow().cast(pa.string())
    table = table.set_column(table.column_names.index("reason"), "reason", reason)
    write_table(table, Path(output))
    kept = rows.filter(pl.col("reason").is_null())
    groups = {
        column: dict(kept.group_by(column).agg(pl.col("bytes").sum()).sort(column).iter_rows()) for column in rates
    }
    found = kept_counts(pq.read_table(survey), table["reason"], config.min_validation_documents)
    return {"kept": found, "groups": groups}


def group_rows(survey: str, scores: str) -> pl.DataFrame:
    """Groups, bytes, hash and reason of every document of a part."""
    columns = ["page_type", "domain", "bytes", "keep_hash"]
    scored = pl.read_parquet(scores)
    present = [name for name in ("topic", "category", "reason") if name in scored.columns]
    return pl.concat([pl.read_parquet(survey, columns=columns), scored.select(present)], how="horizontal")


def keep_rates(cells: pl.DataFrame, shares: Shares) -> Rates:
    """By column and group the share of documents to keep, from the bytes of each combination of groups.

    Each column in turn gets the rates that it needs after the others' have been applied, until none changes.
    """
    size = cells["bytes"].to_numpy().astype(np.float64)
    names = {column: np.array(cells[column].to_list(), object) for column in shares.columns}
    rates: Rates = {column: {} for column in shares.columns}
    of_row = {column: np.ones(len(size)) for column in shares.columns}
    for _ in range(MAX_ROUNDS):
        change = 0.0
        for column, wanted in shares.columns.items():
            left = size * np.prod([of_row[other] for other in of_row if other != column], axis=0)
            sums = {name: float(left[names[column] == name].sum()) for name in sorted(set(names[column]))}
            rates[column] = capped_rates(sums, wanted)
            rate = np.array([rates[column].get(name, 1.0) for name in names[column]])
            change = max(change, float(np.abs(rate - of_row[column]).max(initial=0)))
            of_row[column] = rate
        if change < TOLERANCE:
            break
    return rates


def capped_rates(sizes: Mapping[str, float], shares: Mapping[str, float]) -> dict[str, float]:
    """For each group that has more than its share of what is left in the end, the rate that brings it there."""
    present = {name: size for name, size in sizes.items() if size > 0}
    named = {name: shares[name] for name in present if name in shares}
    if len(named) == len(present) and sum(named.values()) < 1:
        named = {name: share / sum(named.values()) for name, share in named.items()}
    limit, capped = sum(present.values()), set()
    while True:
        over = {name for name in named.keys() - capped if present[name] > named[name] * limit * (1 + 1e-9)}
        rest = sum(size for name, size in present.items() if name not in capped | over)
        if not over or rest <= 0:
            return {name: named[name] * limit / present[name] for name in sorted(capped)}
        capped |= over
        limit = rest / (1 - sum(named[name] for name in capped))


def _reached(
    cells: pl.DataFrame, after: Sequence[Mapping[str, Mapping[str, int]]], rates: Rates, shares: Shares
) -> dict[str, Any]:
    """By column and group: bytes before and after, the shares these are, and the greatest share that was asked for."""
    report: dict[str, Any] = {}
    for column, wanted in shares.columns.items():
        before = dict(cells.group_by(column).agg(pl.col("bytes").sum()).sort(column).iter_rows())
        left = {name: sum(part[column].get(name, 0) for part in after) for name in before}
        total_before, total_left = max(sum(before.values()), 1), max(sum(left.values()), 1)
        report[column] = {
            name: {
                "bytes_before": size,
                "bytes": left[name],
                "share_before": round(size / total_before, 4),
                "share": round(left[name] / total_left, 4),
                "greatest_share": wanted.get(name),
                "rate": round(rates[column].get(name, 1.0), 6),
            }
            for name, size in before.items()
        }
    return report
