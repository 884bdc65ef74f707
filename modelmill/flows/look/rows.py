"""A data stage and a person's filters → a lazy ledger of its rows, counts of it, and rows chosen from it by a seed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from modelmill.flows.look.shards import ROW, Shards
from modelmill.flows.look.stage import DataStage

_LARGEST = 2**64
REASON = "reason"
_STRINGS = ("url", "source", "language", "title", "date", "survivor", "detail", REASON)


@dataclass(frozen=True)
class Filters:
    """Which rows a person wants to see; None asks for all. domain: a host with all below it. find: letters anywhere in
    text, title or address, in either case."""

    reason: str | None = None
    domain: str | None = None
    language: str | None = None
    find: str | None = None

    @property
    def given(self) -> dict[str, str]:
        """Those that are set."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Group:
    """Rows of one host, language or source. reason: the commonest one that dropped `reason_rows` of them."""

    name: str
    rows_in: int
    rows_out: int
    reason: str | None
    reason_rows: int


@dataclass(frozen=True)
class Groups:
    """The largest groups, and the sum of the `num_rest` others."""

    title: str
    shown: list[Group]
    num_rest: int
    rest: Group


def ledger(stage: DataStage, filters: Filters, folder: Path) -> pl.LazyFrame:
    """Every row that the stage met, without its text; `reason` is null for those it kept.

    Rows of a host, or with letters in their texts, are looked for once and put down in `folder`.
    """
    parts = [stage.kept] if stage.dropped is None else [stage.kept, stage.dropped]
    frames = [_filtered(part, filters) for part in parts]
    rows = pl.concat([_with_columns(frame) for frame in frames], how="diagonal_relaxed")
    if filters.reason is not None:
        rows = rows.filter(pl.col(REASON) == filters.reason)
    if filters.find is None and filters.domain is None:
        return rows
    rows.sink_parquet(folder / "found.parquet")
    return pl.scan_parquet(folder / "found.parquet")


def _with_columns(frame: pl.LazyFrame) -> pl.LazyFrame:
    present = frame.collect_schema().names()
    missing = [pl.lit(None, pl.String).alias(name) for name in _STRINGS if name not in present]
    return frame.with_columns(*missing)


def _filtered(part: Shards, filters: Filters) -> pl.LazyFrame:
    frame = part.rows(with_text=filters.find is not None)
    names = frame.collect_schema().names()
    if filters.domain is not None:
        domain = filters.domain.lower().strip(".")
        frame = frame.filter((pl.col("host") == domain) | pl.col("host").str.ends_with(f".{domain}"))
    if filters.language is not None:
        frame = frame.filter(pl.col("language") == filters.language if "language" in names else pl.lit(False))
    if filters.find is not None:
        pattern = f"(?i){pl.escape_regex(filters.find)}"
        places = [name for name in ("text", "title", "url") if name in names]
        frame = frame.filter(pl.any_horizontal(pl.col(name).str.contains(pattern).fill_null(False) for name in places))
    return frame.drop("text", strict=False)


def reason_counts(rows: pl.LazyFrame) -> dict[str | None, int]:
    """Rows by reason, None for those that were kept; the commonest reason first."""
    counted = rows.group_by(REASON).len().collect(engine="streaming")
    return dict(sorted(counted.iter_rows(), key=lambda item: (-item[1], item[0] or "")))


def grouped(rows: pl.LazyFrame, column: str, title: str, limit: int) -> Groups:
    """Rows in and out of the largest `limit` groups of equal `column`, each with the reason that dropped most."""
    rows = rows.select(pl.col(column).fill_null("").alias("name"), REASON)
    groups = rows.group_by("name").agg(rows_in=pl.len(), rows_out=pl.col(REASON).is_null().sum())
    totals = groups.select(pl.len().alias("groups"), pl.col("rows_in", "rows_out").sum())
    largest = groups.sort("rows_in", "name", descending=[True, False]).head(limit)
    total, shown = pl.collect_all([totals, largest], engine="streaming")
    names = shown["name"].to_list()
    dropped = rows.filter(pl.col("name").is_in(names), pl.col(REASON).is_not_null())
    by_reason = dropped.group_by("name", REASON).len().collect(engine="streaming")
    commonest: dict[str, tuple[str, int]] = {}
    for name, reason, number in by_reason.sort("len", REASON, descending=[True, False]).iter_rows():
        commonest.setdefault(name, (reason, number))
    found = [Group(name, met, kept, *commonest.get(name, (None, 0))) for name, met, kept in shown.iter_rows()]
    num_groups, rows_in, rows_out = total.row(0)
    rest = Group("", rows_in - shown["rows_in"].sum(), rows_out - shown["rows_out"].sum(), None, 0)
    return Groups(title, found, num_groups - len(found), rest)


def chosen(
    rows: pl.LazyFrame, counts: Mapping[str | None, int], number: int, seed: int
) -> dict[str | None, list[dict[str, Any]]]:
    """`number` random rows of each reason, the same whatever shards they lie in: those whose ids hash smallest.

    Hashes are spread evenly, so a share of their range holds a share of the rows: one pass that keeps little finds all.
    Another release of polars may hash differently, and choose others.
    """
    order = pl.col("id").hash(seed)
    found: dict[str | None, list[dict[str, Any]]] = {}
    missing = {reason: count for reason, count in counts.items() if count}
    slack = 1.0
    while missing:
        borders = [
            pl.col(REASON).eq_missing(pl.lit(reason, pl.String)) & (order <= _border(number, count, slack))
            for reason, count in missing.items()
        ]
        frame = rows.filter(pl.any_horizontal(borders)).with_columns(order=order).collect(engine="streaming")
        for reason in list(missing):
            of_reason = frame.filter(pl.col(REASON).eq_missing(pl.lit(reason, pl.String)))
            if of_reason.height >= min(number, missing[reason]):
                smallest = of_reason.sort("order", "id", "url", ROW).head(number).drop("order")
                found[reason] = smallest.to_dicts()
                del missing[reason]
        slack *= 16
    return {reason: found[reason] for reason in counts if reason in found}


def _border(number: int, count: int, slack: float) -> int:
    """A hash up to which at least `number` of `count` rows lie, but for six standard deviations."""
    wanted = (number + 6 * math.sqrt(number) + 20) * slack
    return min(_LARGEST - 1, int(wanted / count * _LARGEST))
