"""Keys of documents → which are dropped for an equal address or an equal normalised text, and for whom.

Every choice between documents follows the same order, which knows nothing of shards or workers: longest text, then
smallest id, then a hash of the whole row. For addresses, the newest date comes first.
"""

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from modelmill.tasks.dedup.hashing import code_hashes, mixed, string_hashes
from modelmill.tasks.dedup.normalise import normalised
from modelmill.tasks.dedup.shuffle import DROPPED
from modelmill.tasks.text.flat import characters, slices

# Columns that decide who survives; `length` descends, the others ascend.
PREFERENCE = ["length", "id", "row_hash"]
_DESCENDING = [True, False, False]
KEY_COLUMNS = ["id", "url", "date", "text"]


def document_keys(table: pa.Table, first_row: int) -> pa.Table:
    """Keys of the rows of a shard whose rows are numbered from `first_row` on.

    row, id, date, length (characters), row_hash; url_hash (null without an address); exact_low and exact_high, 128
    bits of the normalised text.
    """
    parts = [_slice_keys(piece) for piece in slices(table, "text")] or [_slice_keys(table)]
    keys = pa.concat_tables(parts)
    return keys.add_column(0, "row", pa.array(np.arange(first_row, first_row + table.num_rows)))


def preference_keys(table: pa.Table, lengths: NDArray[np.int64]) -> pa.Table:
    """What decides which of several rows survives: PREFERENCE. `lengths`: characters of each text."""
    hashes = [string_hashes(_column(table, name)) for name in KEY_COLUMNS]
    return pa.table({"length": lengths, "id": table["id"].cast(pa.large_string()), "row_hash": mixed(*hashes)})


def _slice_keys(table: pa.Table) -> pa.Table:
    texts = characters(table["text"])
    plain = normalised(texts)
    preference = preference_keys(table, texts.lengths)
    url = _column(table, "url")
    has_url = pl.Series(pl.from_arrow(url)).str.len_bytes().fill_null(0).to_numpy() > 0
    return pa.table(
        {
            "id": preference["id"],
            "date": _column(table, "date").fill_null(""),
            "length": preference["length"],
            "row_hash": preference["row_hash"],
            "url_hash": pa.array(string_hashes(url), mask=~has_url),
            "exact_low": code_hashes(plain.codes, plain.offsets, seed=1),
            "exact_high": code_hashes(plain.codes, plain.offsets, seed=2),
        }
    )


def _column(table: pa.Table, name: str) -> pa.ChunkedArray | pa.Array:
    if name in table.column_names:
        return table[name].cast(pa.large_string())
    return pa.nulls(table.num_rows, pa.large_string())


def newest_of_address(keys: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Keep the newest row of each address → keys kept, and `row`, `survivor` (an id) of those dropped."""
    with_address = keys.filter(keys["url_hash"].is_valid())
    kept, dropped = split_groups(with_address, ["url_hash"], newest_first=True)
    return pa.concat_tables([kept, keys.filter(keys["url_hash"].is_null())]), dropped


def one_of_text(keys: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Keep one row of each normalised text → keys kept, and `row`, `survivor` of those dropped."""
    return split_groups(keys, ["exact_low", "exact_high"])


def split_groups(table: pa.Table, group: list[str], newest_first: bool = False) -> tuple[pa.Table, pa.Table]:
    """Keep the preferred row of each group of equal keys → rows kept, and `row`, `survivor` (its id) of the others."""
    order = [*group, *(["date"] if newest_first else []), *PREFERENCE]
    descending = [False] * len(group) + ([True] if newest_first else []) + _DESCENDING
    frame = pl.DataFrame(pl.from_arrow(table)).sort(order, descending=descending)
    first = np.ones(frame.height, bool)
    if frame.height:
        first[1:] = np.any([_differs(frame[name].to_numpy()) for name in group], axis=0)
    head = np.maximum.accumulate(np.where(first, np.arange(frame.height), 0))
    frame = frame.with_columns(survivor=frame["id"].gather(head))
    dropped = frame.filter(~first).select("row", "survivor").sort("row")
    kept = frame.filter(first).drop("survivor").sort("row")
    return kept.to_arrow().select(table.column_names).cast(table.schema), dropped.to_arrow().cast(DROPPED)


def _differs(values: NDArray) -> NDArray[np.bool_]:
    return values[1:] != values[:-1]
