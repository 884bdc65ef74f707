"""Dropped rows with the id of a survivor → clusters: a document that stayed, and those that it stands for."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import polars as pl

from modelmill.flows.look.documents import Document, document, texts
from modelmill.flows.look.rows import REASON
from modelmill.flows.look.stage import DataStage
from modelmill.flows.look.text import Comparison, compared

MAX_MEMBERS = 10_000
"""Rows of a cluster that are followed; a larger one is counted as "at least" so many."""
_LEVELS = 5  # a survivor of one level may be dropped by the next: by address, by text, by MinHash
_SIZES = ((1, 1), (2, 2), (3, 5), (6, 10), (11, 100), (101, None))


@dataclass(frozen=True)
class Cluster:
    """A survivor, how many rows it stands for, and some of them with what differs from it."""

    survivor: Document
    num_members: int
    members: list[tuple[Document, Comparison]]

    @property
    def is_counted_whole(self) -> bool:
        return self.num_members < MAX_MEMBERS


@dataclass(frozen=True)
class Clusters:
    """sizes: (least, most or None, survivors that stand directly for so many). largest and random: examples."""

    num_clusters: int
    num_rows: int
    sizes: list[tuple[int, int | None, int]]
    largest: list[Cluster]
    random: list[Cluster]


def clusters(stage: DataStage, rows: pl.LazyFrame, number: int, seed: int) -> Clusters | None:
    """Clusters of the ledger's rows: the largest and random ones; None where no row names a survivor."""
    counted = rows.filter(pl.col("survivor").is_not_null()).group_by("survivor").len()
    counts = [
        pl.col("len").is_between(least, most if most is not None else pl.lit(2**62)).sum().alias(str(least))
        for least, most in _SIZES
    ]
    totals, largest, random = pl.collect_all(
        [
            counted.select(pl.len().alias("clusters"), pl.col("len").sum().alias("rows"), *counts),
            counted.filter(pl.col("len") > 1).sort("len", "survivor", descending=[True, False]).head(min(number, 3)),
            counted.sort(pl.col("survivor").hash(seed), "survivor").head(number + 3),
        ],
        engine="streaming",
    )
    total = totals.row(0, named=True)
    if not total["clusters"]:
        return None
    sizes = [(least, most, total[str(least)]) for least, most in _SIZES if total[str(least)]]
    shown = _survivors(stage, largest["survivor"].to_list())
    others = [each for each in _survivors(stage, random["survivor"].to_list()) if each not in shown][:number]
    found = {each: cluster(stage, each, number) for each in [*shown, *others]}
    return Clusters(
        total["clusters"],
        total["rows"],
        sizes,
        [whole for each in shown if (whole := found[each])],
        [whole for each in others if (whole := found[each])],
    )


def _survivors(stage: DataStage, ids: list[str]) -> list[str]:
    """The rows that stayed in the end for these, each once."""
    return list(dict.fromkeys(survivor_of(stage, each) for each in ids))


def survivor_of(stage: DataStage, identifier: str) -> str:
    """The row that stayed for this one, over all levels; itself when it was no duplicate."""
    seen = set()
    while identifier not in seen and not _with_ids(stage, [identifier], kept=True):
        seen.add(identifier)
        dropped = _with_ids(stage, [identifier], kept=False)
        identifier = next((row["survivor"] for row in dropped if row.get("survivor")), identifier)
    return identifier


def cluster(stage: DataStage, survivor: str, number: int) -> Cluster | None:
    """The rows that a survivor stands for, `number` of them in full; None when the survivor itself is nowhere."""
    own = _with_ids(stage, [survivor], kept=True) or _with_ids(stage, [survivor], kept=False)
    if not own:
        return None
    members: list[dict[str, Any]] = []
    frontier, seen = [survivor], {survivor}
    for _ in range(_LEVELS):
        found = _with_survivors(stage, frontier, MAX_MEMBERS - len(members))
        members += found
        frontier = [row["id"] for row in found if row["id"] not in seen]
        seen.update(frontier)
        if not frontier or len(members) >= MAX_MEMBERS:
            break
    shown = sorted(members, key=lambda row: (row["id"], row["row"]))[:number]
    own_text, *others = texts(stage, [own[0], *shown])
    pairs = [(document(row, text), compared(own_text, text)) for row, text in zip(shown, others, strict=True)]
    return Cluster(document(own[0], own_text), len(members), pairs)


def _with_ids(stage: DataStage, ids: Collection[str], kept: bool) -> list[dict[str, Any]]:
    """Rows of the kept or of the dropped part with these ids."""
    part = stage.kept if kept else stage.dropped
    if part is None:
        return []
    rows = part.rows().filter(pl.col("id").is_in(list(ids)))
    if kept:
        rows = rows.with_columns(pl.lit(None, pl.String).alias(REASON))
    return rows.collect(engine="streaming").to_dicts()


def _with_survivors(stage: DataStage, ids: Collection[str], limit: int) -> list[dict[str, Any]]:
    if stage.dropped is None:
        return []
    rows = stage.dropped.rows()
    return rows.filter(pl.col("survivor").is_in(list(ids))).head(limit).collect(engine="streaming").to_dicts()
