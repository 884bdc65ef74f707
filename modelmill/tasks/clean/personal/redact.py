"""Texts → texts with personal data and keys replaced by placeholders, and how many of each kind in each text."""

import bisect
from collections.abc import Collection, Iterable, Iterator

import numpy as np
import polars as pl
import pyarrow as pa

from modelmill.tasks.clean.config import PersonalData
from modelmill.tasks.clean.personal.candidates import (
    ASSIGNED,
    CODE,
    EMAIL,
    IPV6,
    NUMBER,
    PEM,
    PREFIXED,
    Candidates,
    candidates,
)
from modelmill.tasks.clean.personal.finding import Check, Found, Place
from modelmill.tasks.clean.personal.internet import emails, ip_addresses, ipv6_addresses
from modelmill.tasks.clean.personal.keys import assigned_secrets, issued_keys, private_keys
from modelmill.tasks.clean.personal.national_ids import national_ids
from modelmill.tasks.clean.personal.payment import cards, ibans
from modelmill.tasks.clean.personal.phones import phones

# Kinds in the order in which they claim characters, and what stands for them afterwards.
KINDS = ("key", "email", "iban", "card", "national_id", "ip", "phone")
_RANK = {kind: rank for rank, kind in enumerate(KINDS)}

_CHECKS: dict[int, tuple[Check, ...]] = {
    EMAIL: (emails,),
    NUMBER: (cards, national_ids, ip_addresses, phones),
    CODE: (ibans, national_ids),
    IPV6: (ipv6_addresses,),
    PREFIXED: (issued_keys,),
    ASSIGNED: (assigned_secrets,),
    PEM: (private_keys,),
}

# Column of a document: a struct of the number of each kind that was replaced.
REDACTED = "redacted"
COUNTS_TYPE = pa.struct([(kind, pa.int32()) for kind in KINDS])


def redact(texts: pa.ChunkedArray | pa.Array, config: PersonalData) -> tuple[pa.Array, pa.StructArray]:
    """Replace personal data in place → the texts, and a struct of the number of each kind in each.

    Only places that a fast search selects are looked at closely.
    """
    wanted = frozenset(kind for kind in KINDS if getattr(config, kind))
    series = pl.Series(pl.from_arrow(texts)).cast(pl.String)
    counts = np.zeros((len(KINDS), len(series)), np.int32)
    rows, replaced = [], []
    for row, text, begin, found in found_in(texts, wanted):
        for one in found:
            counts[_RANK[one.kind], row] += 1
        rows.append(row)
        replaced.append(_replaced(text, begin, found))
    if rows:
        series = series.clone().scatter(rows, replaced)
    return series.to_arrow(), counts_array(counts)


def found_in(
    texts: pa.ChunkedArray | pa.Array, kinds: Collection[str] = KINDS
) -> Iterator[tuple[int, str, int, list[Found]]]:
    """Each text in which one of the kinds was found: its row, the text, where it begins in the view, what was found.

    Nothing overlaps: of two kinds at one place, the one that comes first in `KINDS` is taken.
    """
    array = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    spans = candidates(array)
    rows = spans.rows()
    first = np.flatnonzero(np.diff(rows, prepend=-1))
    selected = array.take(pa.array(rows[first])).to_pylist()
    for text, begin, end in zip(selected, first, np.append(first, len(rows))[1:], strict=True):
        row = int(rows[begin])
        checked = _checked(spans, text, row, range(begin, end))
        found = _without_overlaps(one for one in checked if one.kind in kinds)
        if found:
            yield row, text, int(spans.starts[row]), found


def _checked(spans: Candidates, text: str, row: int, numbers: range) -> Iterator[Found]:
    row_begin = int(spans.starts[row])
    for number in numbers:
        place = Place(spans.view, int(spans.begins[number]), int(spans.ends[number]), row_begin, text)
        for check in _CHECKS[int(spans.kinds[number])]:
            yield from check(place)


def _without_overlaps(found: Iterable[Found]) -> list[Found]:
    taken: list[Found] = []
    for one in sorted(found, key=lambda one: (_RANK[one.kind], one.begin, -one.end)):
        at = bisect.bisect(taken, one.begin, key=lambda other: other.begin)
        if (at == 0 or taken[at - 1].end <= one.begin) and (at == len(taken) or one.end <= taken[at].begin):
            taken.insert(at, one)
    return taken


def _replaced(text: str, row_begin: int, found: list[Found]) -> str:
    pieces, done = [], 0
    for one in found:
        pieces += [text[done : one.begin - row_begin], f"<{one.kind}>"]
        done = one.end - row_begin
    return "".join([*pieces, text[done:]])


def counts_array(counts: np.ndarray) -> pa.StructArray:
    """A struct of counts from an array of kinds times rows."""
    return pa.StructArray.from_arrays([pa.array(kind) for kind in counts], fields=list(COUNTS_TYPE))


def redacted_counts(table: pa.Table) -> dict[str, int]:
    """Sums of the column `redacted`; nothing where there is none."""
    if REDACTED not in table.column_names:
        return {}
    return pl.Series(pl.from_arrow(table[REDACTED])).struct.unnest().sum().row(0, named=True)
