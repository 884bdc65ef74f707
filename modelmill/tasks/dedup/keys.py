"""Keys of one run's documents and who survived → `keys/`, with which a later crawl is compared without their text."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from modelmill.tasks.dedup.config import Config
from modelmill.tasks.dedup.earlier import KINDS
from modelmill.tasks.dedup.exact import document_keys
from modelmill.tasks.dedup.hashing import string_hashes
from modelmill.tasks.dedup.job import Job
from modelmill.tasks.dedup.minhash import band_hashes
from modelmill.tasks.dedup.shards import Remaining, Shard
from modelmill.tasks.dedup.shuffle import partitions_of, read_partition, read_rows, write_partitions, write_rows
from modelmill.tasks.text.flat import characters

# Reasons whose survivor stands for the dropped document: what resembles that one later, resembles a known cluster.
CLUSTERED = ("minhash", "earlier_minhash")
_PROBE = "The quick brown fox jumps over the lazy dog; 敏捷的棕色狐狸跳过懒狗。 Ça coûte 25 €."


def key_levels(config: Config) -> dict[str, Any]:
    """What the keys of a run depend on: keys of two runs can be compared at a level where this agrees.

    Each level shows the hash of a probe, so that a change of the code that computes keys is noticed, too.
    """
    probe = pa.table({"id": [_PROBE], "text": [_PROBE], "url": [_PROBE]})
    keys = document_keys(probe, 0).to_pylist()[0]
    levels: dict[str, Any] = {}
    if config.url:
        levels["url"] = {"probe": keys["url_hash"]}
    if config.exact:
        levels["exact"] = {"probe": keys["exact_low"]}
    if config.minhash.enabled:
        hashes, _ = band_hashes(characters(probe["text"]), config.minhash)
        levels["minhash"] = config.minhash.model_dump() | {"probe": int(hashes[0, -1])}
    return levels


def kinds_of(levels: dict[str, Any]) -> list[str]:
    """The kinds of key that a run with these levels leaves."""
    of_level = {"url": "url", "exact": "exact", "minhash": "bands"}
    return ["ids", *(of_level[level] for level in levels)]


def level_files(job: Job, shard: Shard) -> dict[str, Path]:
    """The files of one shard in which the levels left keys of its rows."""
    folders = {"keys": job.config.url or job.config.exact, "bands": job.config.minhash.enabled}
    return {name: job.folder(name) / shard.name for name, is_there in folders.items() if is_there}


def place_keys(rest: Remaining, shard: Shard, levels: dict[str, Path], num_files: int, output: Path) -> None:
    """Write the keys of one shard by file of the artifact, into a folder for each kind.

    levels: the shard's `keys` (of addresses and texts) and `bands`, as the levels left them.
    """
    ids = _survivors(rest)
    row = pl.col("row")
    tables = {"ids": ids.select(hash="survivor", id="id")}
    if "keys" in levels:
        keys = pl.DataFrame(pl.from_arrow(read_rows(levels["keys"]))).drop("id")
        kept = keys.filter(row.is_in(rest.rows)).join(ids, on="row")
        tables["url"] = kept.filter(pl.col("url_hash").is_not_null()).select("survivor", hash="url_hash")
        tables["exact"] = keys.join(ids, on="row").select("survivor", hash="exact_low", high="exact_high")
    if "bands" in levels:
        bands = pl.DataFrame(pl.from_arrow(read_rows(levels["bands"])))
        tables["bands"] = bands.join(ids, on="row").select("hash", "survivor")
    for kind, frame in tables.items():
        table = frame.select(KINDS[kind]).to_arrow()
        path = output / kind / shard.name
        write_partitions(table, partitions_of(table["hash"].to_numpy(), num_files), num_files, path)


def _survivors(rest: Remaining) -> pl.DataFrame:
    """`row`, `id` and its hash (`survivor`) of the document that stands for each row that has one."""
    stands = np.isin(rest.dropped["reason"].to_numpy(zero_copy_only=False), CLUSTERED)
    dropped = rest.dropped.filter(pa.array(stands))
    chunks = [
        chunk for column in (rest.table["id"], dropped["survivor"]) for chunk in column.cast(pa.large_string()).chunks
    ]
    ids = pa.chunked_array(chunks, pa.large_string())
    rows = np.concatenate([rest.rows, rest.dropped_rows[stands]])
    return pl.DataFrame({"row": rows, "id": pl.from_arrow(ids), "survivor": string_hashes(ids, seed=6)})


def merge_keys(sources: list[Path], kind: str, partition: int, output: Path) -> int:
    """Write one file of the artifact's keys, sorted, each once."""
    frame = pl.DataFrame(pl.from_arrow(read_partition(sources, partition)))
    table = frame.unique().sort(KINDS[kind]).to_arrow()
    write_rows(table, output / f"{kind}-{partition:05d}.arrow")
    return table.num_rows
