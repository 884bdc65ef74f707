"""Rows chosen from a ledger → documents to read: random ones, those near a threshold, those that were edited."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from modelmill.flows.look.rows import REASON
from modelmill.flows.look.shards import ROW, Shards
from modelmill.flows.look.stage import DataStage
from modelmill.flows.look.text import Comparison, compared, plain_lines, shortened

MAX_TEXT = 4_000  # characters of a text that is shown whole
_MAX_NAME = 120  # characters
EDIT_SAMPLE = 200  # kept documents that are compared with what came in
_BEFORE_MATCH = 60
_TEXTS_AT_A_TIME = 50
_APART = {ROW, "id", "url", "host", "title", "text", REASON, "detail", "survivor"}  # columns not listed as facts


@dataclass(frozen=True)
class Document:
    """One row as it is shown: of its text `skipped` characters stand before `text` and `left_out` after it. name: its
    title, or what tells it from others if it has none."""

    id: str
    url: str
    name: str
    reason: str | None
    detail: str
    survivor: str | None
    facts: dict[str, str]
    text: str
    skipped: int
    left_out: int


@dataclass(frozen=True)
class Threshold:
    """A setting of a stage that a number kept in its rows is compared with."""

    column: str
    setting: tuple[str, ...]
    reason: str
    meaning: str


# Other rules leave a reason and no number in the rows: there is nothing to order their documents by.
THRESHOLDS = {
    "clean": Threshold(
        "language_score",
        ("min_language_score",),
        "language_uncertain",
        "how sure the language identifier is, from 0 to 1",
    ),
    "curate": Threshold("quality", ("quality", "threshold"), "low_quality", "the quality student's score, from 0 to 1"),
}


@dataclass(frozen=True)
class Borderline:
    """Documents on both sides of a threshold, the nearest first."""

    threshold: Threshold
    limit: float
    above: list[Document]
    below: list[Document]


@dataclass(frozen=True)
class Edits:
    """What became of the lines of random kept documents, blank ones and spaces aside.

    characters came in, of which `removed` went. lines: those removed from most documents, with the number of documents.
    """

    num_compared: int
    num_edited: int
    characters: int
    removed: int
    lines: list[tuple[str, int]]
    examples: list[tuple[Document, Comparison]]


def documents(stage: DataStage, rows: Sequence[dict[str, Any]], find: str | None = None) -> list[Document]:
    """Rows of the stage's ledger with their texts, from shortly before `find` on where it stands in them."""
    return [document(row, text, find) for row, text in zip(rows, texts(stage, rows), strict=True)]


def texts(stage: DataStage, rows: Sequence[dict[str, Any]]) -> list[str]:
    """The whole text of each row of the ledger, from the kept or the dropped part as its reason says."""
    found: dict[int, str] = {}
    for part, is_kept in ((stage.kept, True), (stage.dropped, False)):
        places = [number for number, row in enumerate(rows) if (row[REASON] is None) == is_kept]
        if places and part is not None:
            found |= zip(places, part.texts([rows[place][ROW] for place in places]), strict=True)
    return [found[number] for number in range(len(rows))]


def document(row: dict[str, Any], text: str, find: str | None = None) -> Document:
    """A row and its text as they are shown."""
    facts = {name: _written(value) for name, value in row.items() if name not in _APART and value not in (None, "")}
    match = re.search(re.escape(find), text, re.IGNORECASE) if find else None
    start = max(0, match.start() - _BEFORE_MATCH) if match else 0
    shown, left_out = shortened(text[start:], MAX_TEXT)
    first_line = next(iter(plain_lines(text[:MAX_TEXT])), "")
    name = row.get("title") or first_line or row["url"] or row["id"] or ""
    return Document(
        row["id"] or "",
        row["url"] or "",
        name if len(name) <= _MAX_NAME else f"{name[:_MAX_NAME]}…",
        row[REASON],
        row.get("detail") or "",
        row.get("survivor"),
        facts | {"characters": f"{len(text):,}"},
        shown,
        start,
        left_out,
    )


def _written(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def borderline(stage: DataStage, rows: pl.LazyFrame, number: int) -> Borderline | None:
    """The documents nearest to the stage's threshold, or None where it has none."""
    threshold = THRESHOLDS.get(stage.stage)
    if threshold is None or threshold.column not in rows.collect_schema().names():
        return None
    limit: Any = stage.manifest["recipe_part"]
    for part in threshold.setting:
        limit = limit and limit.get(part)
    if limit is None:
        return None
    distance = (pl.col(threshold.column) - limit).abs()
    sides = [
        rows.filter(condition).with_columns(distance=distance).sort("distance", "id").head(number).drop("distance")
        for condition in (pl.col(REASON).is_null(), pl.col(REASON) == threshold.reason)
    ]
    above, below = pl.collect_all(sides, engine="streaming")
    return Borderline(threshold, limit, documents(stage, above.to_dicts()), documents(stage, below.to_dicts()))


def edits(stage: DataStage, rows: Sequence[dict[str, Any]], number: int) -> Edits | None:
    """Compare kept rows with what came in; None where that is not stored. `number` examples, in the order of `rows`."""
    if stage.before is None or not rows:
        return None
    places = _rows_before(stage.before, rows)
    lines: Counter[str] = Counter()
    examples: list[tuple[Document, Comparison]] = []
    num_edited = characters = removed = 0
    compared_rows = [(row, place) for row, place in zip(rows, places, strict=True) if place is not None]
    for start in range(0, len(compared_rows), _TEXTS_AT_A_TIME):
        some = compared_rows[start : start + _TEXTS_AT_A_TIME]
        before, after = stage.before.texts([place for _, place in some]), texts(stage, [row for row, _ in some])
        for (row, _), old, new in zip(some, before, after, strict=True):
            characters += len(old)
            old_lines, new_lines = plain_lines(old), plain_lines(new)
            if old_lines == new_lines:
                continue
            num_edited += 1
            removed += max(0, len(old) - len(new))
            lines.update(set(old_lines) - set(new_lines))
            if len(examples) < number:
                examples.append((document(row, new), compared(old, new)))
    repeated = sorted(((line, count) for line, count in lines.items() if count > 1), key=lambda each: (-each[1], each))
    return Edits(len(compared_rows), num_edited, characters, removed, repeated[:10], examples)


def _rows_before(before: Shards, rows: Sequence[dict[str, Any]]) -> list[int | None]:
    """Where each row came in, by id; of several rows with that id, the one with the same address."""
    wanted = {row["id"] for row in rows}
    found = before.rows().filter(pl.col("id").is_in(list(wanted))).select("id", "url", ROW).collect(engine="streaming")
    places: dict[Any, int] = {}
    for identifier, url, row in found.sort(ROW, descending=True).iter_rows():
        places[identifier] = places[identifier, url or ""] = row
    return [places.get((row["id"], row["url"] or ""), places.get(row["id"])) for row in rows]
