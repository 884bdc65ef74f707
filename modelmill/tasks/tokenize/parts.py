"""One part of the corpus → its sizes, its share of the training sample, its token shards: what fans out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from modelmill.tasks.files import atomic_path
from modelmill.tasks.tokenize.encode import Encoder
from modelmill.tasks.tokenize.shards import SPLITS, domain_folder, write_shard

TRAIN = SPLITS[0]


def measure_part(documents: str) -> dict[str, dict[str, dict[str, int]]]:
    """Documents and UTF-8 bytes by split and domain."""
    sizes = (
        pl.read_parquet(documents, columns=["text", "domain", "split"])
        .group_by("split", "domain")
        .agg(documents=pl.len(), bytes=pl.col("text").str.len_bytes().cast(pl.Int64).sum())
    )
    found: dict[str, dict[str, dict[str, int]]] = {split: {} for split in SPLITS}
    for split, domain, count, size in sizes.sort("split", "domain").iter_rows():
        found[split][domain] = {"documents": count, "bytes": size}
    return found


def sample_part(documents: str, output: str, rates: Mapping[str, float], firsts: Mapping[str, int]) -> None:
    """Write the training documents of this part that the sample takes, evenly spaced in each domain.

    rates: how often each document of a domain enters the sample (0.1: every tenth; 2: each twice).
    firsts: number of training documents of the domain in the parts before.
    """
    table = pq.read_table(documents, columns=["text", "domain", "split"])
    domains, splits = table["domain"].to_numpy(), table["split"].to_numpy()
    repeats = np.zeros(len(table), np.int64)
    for domain, rate in rates.items():
        rows = np.flatnonzero((domains == domain) & (splits == TRAIN))
        steps = np.floor((np.arange(len(rows) + 1) + firsts[domain]) * rate)
        repeats[rows] = np.diff(steps).astype(np.int64)
    chosen = np.repeat(np.arange(len(table)), repeats)
    with atomic_path(Path(output)) as temporary:
        pq.write_table(table.select(["text"]).take(pa.array(chosen)), temporary, compression="zstd")


def encode_part(documents: str, tokenizer: str, output: str, name: str, end_token: int) -> dict[str, Any]:
    """Write this part's documents as shard `name` of each split and domain that it has.

    Returns the tokens, documents, bytes and names of its shards, by split and domain.
    """
    encoder = Encoder(tokenizer)
    table = pl.read_parquet(documents, columns=["text", "domain", "split"])
    entries: dict[str, dict[str, Any]] = {split: {} for split in SPLITS}
    for (split, domain), rows in sorted(table.group_by("split", "domain", maintain_order=True)):
        texts = rows["text"].to_arrow()
        tokens, offsets = encoder.encode(pa.chunked_array([texts]), end_token)
        write_shard(domain_folder(Path(output), str(split), str(domain)), name, tokens, offsets)
        entries[str(split)][str(domain)] = {
            "tokens": len(tokens),
            "documents": len(rows),
            "bytes": int(rows["text"].str.len_bytes().cast(pl.Int64).sum()),
            "shards": [name],
        }
    return entries
