"""Held-out documents → bytes and bits per token by language and domain, in the trained vocabulary and a reference.

Bits per token are the entropy of the tokens' frequencies within a group. Bits per byte, their quotient, are then the
length of the text in a code that knows these frequencies and nothing else: they compare vocabularies of different
sizes, as bytes per token cannot. A small group looks smaller than it is: it shows few of the vocabulary's entries.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from modelmill.tasks.files import atomic_path
from modelmill.tasks.tokenize.encode import Encoder
from modelmill.tasks.tokenize.reference import reference_encoder

# Of each part; a few megabytes settle the third digit, and a reference may encode slowly.
MAX_BYTES = 2_000_000
GROUP = ["language", "domain"]
OWN, REFERENCE = "own", "reference"


def measure_compression(documents: str, tokenizers: Mapping[str, str], output: str) -> list[dict[str, Any]]:
    """Write how often each vocabulary's tokens occur in this part's validation documents, by language and domain.

    tokenizers: place of the tokenizer by the vocabulary's name (`OWN`, `REFERENCE`).
    Returns language, domain, documents and bytes of each group.
    """
    table = pl.read_parquet(documents, columns=["text", "split", *GROUP]).filter(pl.col("split") == "validation")
    table = table.with_columns(bytes=pl.col("text").str.len_bytes().cast(pl.Int64))
    table = table.filter(pl.col("bytes").cum_sum() - pl.col("bytes") < MAX_BYTES)
    counts = []
    for vocabulary, place in tokenizers.items():
        encoder = Encoder(place) if vocabulary == OWN else reference_encoder(place)
        rows = encoder.encode(pa.chunked_array([table["text"].to_arrow()]))
        row = np.repeat(np.arange(len(table)), np.diff(rows.offsets))
        labelled = table.select(GROUP)[row].with_columns(
            pl.lit(vocabulary).alias("vocabulary"), pl.Series("token", rows.tokens.astype(np.int64))
        )
        counts.append(labelled.group_by("vocabulary", *GROUP, "token").agg(count=pl.len().cast(pl.Int64)))
    with atomic_path(Path(output)) as temporary:
        pl.concat(counts).sort("vocabulary", *GROUP, "token").write_parquet(temporary)
    return table.group_by(GROUP).agg(documents=pl.len(), bytes=pl.col("bytes").sum()).sort(GROUP).to_dicts()


def compression_rows(sizes: Sequence[Sequence[Mapping[str, Any]]], counts: Sequence[str]) -> list[dict[str, Any]]:
    """One row a group, then one over all (language and domain null); for each vocabulary its tokens, and its
    `bytes_per_token`, `bits_per_token` and `bits_per_byte`. `sizes` and `counts`: what the parts returned and wrote.
    """
    found = [group for part in sizes for group in part]
    if not found:
        return []
    groups = pl.DataFrame(found).group_by(GROUP).agg(pl.col("documents", "bytes").sum()).sort(GROUP)
    tokens = pl.concat([pl.read_parquet(path) for path in counts])
    rows = [
        {"language": row["language"], "domain": row["domain"]}
        | _group_row(
            row["documents"],
            row["bytes"],
            tokens.filter(pl.col("language").eq_missing(row["language"]) & (pl.col("domain") == row["domain"])),
        )
        for row in groups.to_dicts()
    ]
    total = _group_row(int(groups["documents"].sum()), int(groups["bytes"].sum()), tokens)
    return [*rows, {"language": None, "domain": None} | total]


def compression_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a markdown table, with the reference's figures in brackets behind the vocabulary's own."""
    lines = ["| language | domain | documents | MB | bytes per token | bits per token | bits per byte |"]
    lines.append("|---|---|---:|---:|---:|---:|---:|")
    for row in rows:
        names = f"| {row['language'] or 'all'} | {row['domain'] or 'all'} | {row['documents']:,} "
        figures = [_both(row, figure) for figure in ("bytes_per_token", "bits_per_token", "bits_per_byte")]
        lines.append(f"{names}| {row['bytes'] / 1e6:.2f} | {' | '.join(figures)} |")
    return "\n".join(lines)


def _group_row(documents: int, size: int, tokens: pl.DataFrame) -> dict[str, Any]:
    row: dict[str, Any] = {"documents": documents, "bytes": size}
    for vocabulary in sorted(tokens["vocabulary"].unique()):
        own = tokens.filter(pl.col("vocabulary") == vocabulary)
        counts = own.group_by("token").agg(pl.col("count").sum()).sort("token")["count"].to_numpy()
        total = int(counts.sum())
        bits = float(np.log2(total) - counts @ np.log2(counts) / total)
        row[vocabulary] = {
            "tokens": total,
            "bytes_per_token": round(size / total, 4),
            "bits_per_token": round(bits, 4),
            "bits_per_byte": round(bits * total / size, 4),
        }
    return row


def _both(row: Mapping[str, Any], figure: str) -> str:
    own = f"{row[OWN][figure]:.2f}" if OWN in row else "-"
    return f"{own} ({row[REFERENCE][figure]:.2f})" if REFERENCE in row else own
