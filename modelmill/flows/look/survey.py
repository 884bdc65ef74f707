"""A data stage, filters, a seed → all that `mill look` shows of it: the funnel, groups, and documents to read."""

import difflib
import tempfile
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from modelmill.flows.look.documents import (
    EDIT_SAMPLE,
    Borderline,
    Document,
    Edits,
    borderline,
    documents,
    edits,
)
from modelmill.flows.look.duplicates import Clusters, clusters
from modelmill.flows.look.rows import Filters, Groups, chosen, grouped, ledger, reason_counts
from modelmill.flows.look.stage import DataStage, pruned
from modelmill.tasks.errors import InputError, RecipeError

MAX_GROUPS = 15
_GROUPS = (
    ("language", "language"),
    ("source", "source"),
    ("page_type", "page type"),
    ("topic", "topic"),
    ("category", "category"),
    ("domain", "domain of curate"),
    ("host", "host"),
)


@dataclass(frozen=True)
class Survey:
    """What a stage did with its rows. `reasons`, `rows_in` and `rows_out` count the rows that pass the filters."""

    recipe: str
    stage: str
    artifact: str
    unit: str
    seed: int
    num_examples: int
    filters: dict[str, str]
    rows_in: int
    rows_out: int
    reasons: dict[str, int]
    groups: list[Groups]
    kept: list[Document]
    dropped: dict[str, list[Document]]
    clusters: Clusters | None
    borderline: Borderline | None
    edits: Edits | None
    notes: list[str]


def survey(stage: DataStage, filters: Filters, number: int, seed: int) -> Survey:
    """Count and choose rows.

    Raises:
        RecipeError: the stage drops no row for the reason that is asked for.
        InputError: no row passes the filters, or dropped ones are asked for that are no longer stored.
    """
    _check_reason(stage, filters.reason)
    with tempfile.TemporaryDirectory(prefix="mill-look-") as folder:
        rows = ledger(stage, filters, Path(folder))
        return _survey(stage, filters, rows, number, seed)


def _survey(stage: DataStage, filters: Filters, rows: pl.LazyFrame, number: int, seed: int) -> Survey:
    counts = reason_counts(rows)
    if not counts:
        raise InputError(_nothing_found(stage, filters))
    num_kept = counts.get(None, 0)
    sample = chosen(rows, {None: num_kept}, max(EDIT_SAMPLE, number), seed).get(None, [])
    present = rows.collect_schema().names()
    dropped = {reason: count for reason, count in counts.items() if reason is not None}
    examples = chosen(rows, {**dropped}, number, seed)
    return Survey(
        recipe=stage.recipe,
        stage=stage.id,
        artifact=stage.manifest["digest"],
        unit=stage.counts["unit"],
        seed=seed,
        num_examples=number,
        filters=filters.given,
        rows_in=sum(counts.values()),
        rows_out=num_kept,
        reasons=dropped,
        groups=_groups(rows, present),
        kept=documents(stage, sample[:number], filters.find),
        dropped={reason: documents(stage, examples[reason], filters.find) for reason in dropped},
        clusters=clusters(stage, rows, number, seed),
        borderline=borderline(stage, rows, number),
        edits=edits(stage, sample, number),
        notes=_notes(stage, filters),
    )


def _groups(rows: pl.LazyFrame, present: list[str]) -> list[Groups]:
    """Tables by each column that tells at least two groups apart, or at least one with a name."""
    found = [grouped(rows, column, title, MAX_GROUPS) for column, title in _GROUPS if column in present]
    return [groups for groups in found if len(groups.shown) > 1 or groups.shown[0].name]


def _notes(stage: DataStage, filters: Filters) -> list[str]:
    notes = []
    if stage.dropped is None:
        kinds = ", ".join(f"{reason} {stage.counts['dropped'][reason]:,}" for reason in stage.reasons)
        notes.append(f"{pruned(stage)} Only kept rows are counted and shown below. They were dropped for: {kinds}.")
    if stage.stage != "ingest" and stage.before is None:
        notes.append("The artifact that came in is no longer stored: texts cannot be compared with what they were.")
    if filters.language is not None and stage.stage == "ingest":
        notes.append("ingest does not know languages; clean identifies them.")
    return notes


def _check_reason(stage: DataStage, reason: str | None) -> None:
    if reason is None:
        return
    if reason not in stage.reasons:
        close = difflib.get_close_matches(reason, stage.reasons, n=1)
        known = f"did you mean {close[0]!r}?" if close else f"its reasons are {', '.join(stage.reasons) or 'none'}"
        raise RecipeError(f"{stage.id} dropped no row for {reason!r}; {known}")
    stage.dropped_rows()


def _nothing_found(stage: DataStage, filters: Filters) -> str:
    if not filters.given:
        return f"{stage.id} has no {stage.counts['unit']} at all; look at the stage before it"
    asked = " and ".join(f"--{name} {value!r}" for name, value in filters.given.items())
    extra = " ingest does not know languages; look at clean." if filters.language and stage.stage == "ingest" else ""
    return (
        f"none of the {stage.counts['in']:,} rows that {stage.id} met fits {asked}.{extra} "
        f"`mill look {stage.id}` lists hosts, languages and reasons; --find looks into texts, titles and addresses."
    )
