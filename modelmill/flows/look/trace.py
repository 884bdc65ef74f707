"""An id or an address → what each data stage of the newest run did with that document, and what followed."""

from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from modelmill.flows.look.documents import Document, document, texts
from modelmill.flows.look.duplicates import survivor_of
from modelmill.flows.look.rows import REASON
from modelmill.flows.look.stage import DataStage, data_stages, pruned
from modelmill.flows.look.text import Comparison, compared
from modelmill.tasks.errors import InputError

MAX_TRACES = 5
"""Different documents of one address that are followed."""

Fate = Literal["kept", "dropped", "gone", "not built"]


@dataclass(frozen=True)
class Step:
    """What one stage did with a document.

    fate: "gone" when it came in, did not go out, and the dropped rows are no longer there. changes: the text against
    that of the stage before, if it differs. survivor: the document that a duplicate was dropped for, against_survivor:
    its differences from that.
    """

    stage: str
    fate: Fate
    document: Document | None = None
    changes: Comparison | None = None
    survivor: Document | None = None
    against_survivor: Comparison | None = None
    note: str = ""


@dataclass(frozen=True)
class Trace:
    """One document through the line; `verdict` says in a sentence where it is, or why it is not there."""

    id: str
    url: str
    verdict: str
    steps: list[Step]


def traces(recipe: str | None, wanted: str) -> list[Trace]:
    """Follow the documents with this id, or else with this address.

    Raises:
        InputError: no finished data stage has met it.
    """
    stages = data_stages(recipe)
    finished = [stage for stage in stages if isinstance(stage, DataStage)]
    for column in ("id", "url"):
        ids: dict[str, None] = {}
        for stage in finished:
            ids |= dict.fromkeys(row["id"] for row in _rows(stage, column, wanted))
        if ids:
            return [_trace(stages, identifier) for identifier in list(ids)[:MAX_TRACES]]
    names = ", ".join(stage.id for stage in finished) or "none is finished"
    raise InputError(
        f"no row with the id or address {wanted!r}, neither kept nor dropped, in the data stages of the newest run "
        f"({names}). Addresses are compared whole: `mill look STAGE --find PART` lists rows that contain a part of one."
    )


def _rows(stage: DataStage, column: str, value: str) -> list[dict[str, Any]]:
    """Kept rows, then dropped ones, in which a column has this value."""
    found: list[dict[str, Any]] = []
    for part in (stage.kept, stage.dropped):
        if part is None:
            continue
        rows = part.rows()
        if part is stage.kept:
            rows = rows.with_columns(pl.lit(None, pl.String).alias(REASON))
        found += rows.filter(pl.col(column) == value).collect(engine="streaming").to_dicts()
    return found


def _trace(stages: list[DataStage | str], identifier: str) -> Trace:
    steps: list[Step] = []
    before: str | None = None
    url = ""
    for stage in stages:
        if isinstance(stage, str):
            steps.append(Step(stage, "not built"))
            break
        rows = _rows(stage, "id", identifier)
        if not rows:
            if before is not None:
                note = pruned(stage) if stage.dropped is None else "The row is in neither part of the artifact."
                steps.append(Step(stage.id, "gone", note=note))
                break
            continue
        row, text = rows[0], texts(stage, rows[:1])[0]
        url = row["url"] or url
        steps.append(_step(stage, stages, row, text, before))
        if row[REASON] is not None:
            break
        before = text
    return Trace(identifier, url, _verdict(steps), steps)


def _step(stage: DataStage, stages: list[DataStage | str], row: dict[str, Any], text: str, before: str | None) -> Step:
    shown = document(row, text)
    changes = compared(before, text) if before is not None and row[REASON] is None else None
    if changes is not None and not changes.differs:
        changes = None
    if row[REASON] is None or not row.get("survivor"):
        return Step(stage.id, "dropped" if row[REASON] is not None else "kept", shown, changes)
    survivor = survivor_of(stage, row["survivor"])
    found = _rows(stage, "id", survivor)
    if not found:
        return Step(stage.id, "dropped", shown)
    other = texts(stage, found[:1])[0]
    note = _later(stages[stages.index(stage) + 1 :], survivor)
    return Step(stage.id, "dropped", shown, None, document(found[0], other), compared(other, text), note)


def _later(stages: list[DataStage | str], identifier: str) -> str:
    """What became of a survivor afterwards."""
    for stage in stages:
        if isinstance(stage, str):
            break
        rows = _rows(stage, "id", identifier)
        if rows and rows[0][REASON] is not None:
            return f"That document was dropped later, by {stage.id}: {rows[0][REASON]}."
    finished = [stage.id for stage in stages if isinstance(stage, DataStage)]
    return f"That document is kept by {finished[-1]} too." if finished else ""


def _verdict(steps: list[Step]) -> str:
    last = next((step for step in reversed(steps) if step.fate != "not built"), None)
    if last is None:
        return "No data stage has met it."
    if last.fate == "gone":
        return f"Dropped by {last.stage}; the reason is no longer stored."
    if last.fate == "kept":
        rest = f"; {steps[-1].stage} is not built yet" if steps[-1].fate == "not built" else ""
        return f"Kept by {last.stage}, the last data stage that is finished{rest}."
    assert last.document is not None
    why = f"Dropped by {last.stage}: {last.document.reason}"
    detail = f" ({last.document.detail})" if last.document.detail else ""
    other = f", as a duplicate of {last.survivor.url or last.survivor.id}" if last.survivor else ""
    return f"{why}{detail}{other}."
