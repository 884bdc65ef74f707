"""Shards → rows dropped because their address, or their normalised text, is that of another document."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from modelmill.tasks.dedup import exact
from modelmill.tasks.dedup.config import Config
from modelmill.tasks.dedup.job import Job, beside
from modelmill.tasks.dedup.known import known_before
from modelmill.tasks.dedup.shards import Decisions, Shard
from modelmill.tasks.dedup.shuffle import NONE_DROPPED, partitions_of, read_partition, write_partitions, write_rows

# Files beside the dropped rows of a partition: the keys of the others, and rows that an earlier artifact has.
KEYS, EARLIER = ".keys", ".earlier"


def decide_exact(job: Job, decisions: Decisions) -> Decisions:
    """Rows whose address or text an earlier artifact or another row has."""
    count = job.num_partitions
    shared = {"num_partitions": count, "earlier": job.earlier}
    keys = job.over_shards(write_keys, "keys", num_partitions=count)
    dropped = job.over_partitions(reduce_addresses, "url", keys, count, **shared)
    if job.config.url:
        decisions = decisions.after("earlier_url", [beside(path, EARLIER) for path in dropped])
        decisions = decisions.after("url", dropped)
    if job.config.exact:
        unique = [beside(path, KEYS) for path in dropped]
        dropped = job.over_partitions(reduce_texts, "exact", unique, count, **shared)
        decisions = decisions.after("earlier_exact", [beside(path, EARLIER) for path in dropped])
        decisions = decisions.after("exact", dropped)
    return decisions


def write_keys(shard: Shard, output: Path, config: Config, num_partitions: int) -> int:
    """Keys of one shard, by partition of the address (of the text where there is none)."""
    keys = exact.document_keys(shard.read(exact.KEY_COLUMNS), shard.first_row)
    hashes = keys["url_hash"].fill_null(0).to_numpy()
    hashes = np.where(keys["url_hash"].is_null().to_numpy(), keys["exact_low"].to_numpy(), hashes)
    write_partitions(keys, partitions_of(hashes, num_partitions), num_partitions, output)
    return keys.num_rows


def reduce_addresses(
    sources: list[Path], partition: int, output: Path, config: Config, num_partitions: int, earlier: Sequence[Path]
) -> int:
    """Newest row of each address: dropped rows to `output`, keys of the others beside it by partition of the text.

    An address that an earlier artifact has keeps its earlier page, even if this one is newer: that artifact is final.
    """
    keys, dropped = read_partition(sources, partition), NONE_DROPPED
    known = NONE_DROPPED
    if config.url:
        addresses = pa.table({"row": keys["row"], "hash": keys["url_hash"]}).drop_null()
        known = known_before(addresses, earlier, "url", partition, num_partitions)
        keys, dropped = exact.newest_of_address(_without(keys, known))
    by_text = partitions_of(keys["exact_low"].to_numpy(), num_partitions)
    write_partitions(keys, by_text, num_partitions, beside(output, KEYS))
    write_rows(known, beside(output, EARLIER))
    write_rows(dropped, output)
    return known.num_rows + dropped.num_rows


def reduce_texts(
    sources: list[Path], partition: int, output: Path, config: Config, num_partitions: int, earlier: Sequence[Path]
) -> int:
    """One row of each normalised text, none of a text that an earlier artifact has: dropped rows."""
    keys = read_partition(sources, partition)
    texts = pa.table({"row": keys["row"], "hash": keys["exact_low"], "high": keys["exact_high"]})
    known = known_before(texts, earlier, "exact", partition, num_partitions)
    dropped = exact.one_of_text(_without(keys, known))[1]
    write_rows(known, beside(output, EARLIER))
    write_rows(dropped, output)
    return known.num_rows + dropped.num_rows


def _without(keys: pa.Table, known: pa.Table) -> pa.Table:
    return keys.filter(pa.array(~np.isin(keys["row"].to_numpy(), known["row"].to_numpy())))
