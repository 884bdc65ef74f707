"""Shards → sentences or paragraphs to remove because other documents say nearly the same."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from modelmill.tasks.dedup.config import Config
from modelmill.tasks.dedup.job import Job
from modelmill.tasks.dedup.passages import excess_passages, passage_bands
from modelmill.tasks.dedup.shards import Decisions, Shard, document_order, remaining
from modelmill.tasks.dedup.shuffle import partitions_of, read_partition, write_partitions, write_rows
from modelmill.tasks.text.flat import characters, slices

# A document has about this many passages that are long enough: as many more partitions keep memory where it was.
PASSAGES = 16


def decide_passages(job: Job, decisions: Decisions) -> Decisions:
    """Passages to remove from what the other levels kept."""
    bands = job.config.passages.minhash.bands
    count = bands * PASSAGES * job.num_partitions if job.num_partitions > 1 else 1
    found = job.over_shards(write_passages, "passages", decisions=decisions, num_partitions=count)
    return replace(decisions, excess_passages=job.over_partitions(reduce_passages, "passages-repeated", found, count))


def write_passages(shard: Shard, output: Path, config: Config, decisions: Decisions, num_partitions: int) -> int:
    """Band hashes of the passages of one shard, by partition."""
    rest = remaining(shard, decisions, config, ["id", "text"])
    parts, start = [], 0
    for piece in [*slices(rest.table, "text")] or [rest.table]:
        rows = rest.rows[start : start + piece.num_rows]
        start += piece.num_rows
        parts.append(passage_bands(characters(piece["text"]), config.passages, rows, document_order(piece)))
    table = pa.concat_tables(parts)
    write_partitions(table, partitions_of(table["hash"].to_numpy(), num_partitions), num_partitions, output)
    return table.num_rows


def reduce_passages(sources: list[Path], partition: int, output: Path, config: Config) -> int:
    """Passages to remove that agree with another in a band of this partition."""
    found = excess_passages(read_partition(sources, partition), config.passages)
    write_rows(found, output)
    return found.num_rows
