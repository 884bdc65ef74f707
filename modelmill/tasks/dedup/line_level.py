"""Shards → lines to remove, by either rule, counted over all of them."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from modelmill.tasks.dedup.config import Config
from modelmill.tasks.dedup.job import Job
from modelmill.tasks.dedup.lines import counted_lines, edge_lines, excess_lines, frequent_lines, text_lines
from modelmill.tasks.dedup.shards import Decisions, Shard, document_order, line_buckets, remaining
from modelmill.tasks.dedup.shuffle import partitions_of, read_partition, write_partitions, write_rows
from modelmill.tasks.text.flat import characters, slices


def decide_lines(job: Job, decisions: Decisions) -> Decisions:
    """Lines that repeat across the documents of this run; earlier artifacts are not asked."""
    rule = job.config.lines
    # About ten lines a document are counted: as many more partitions keep memory where it was.
    count = 10 * job.num_partitions if job.num_partitions > 1 else 1
    buckets = -(-job.num_rows // rule.bucket_documents) if rule.rule == "llama" else 1
    folder = f"lines-{rule.rule}"
    counted = job.over_shards(
        write_lines, folder, decisions=decisions, num_partitions=count, num_buckets=max(buckets, 1)
    )
    found = job.over_partitions(reduce_lines, f"{folder}-repeated", counted, count)
    if rule.rule == "llama":
        return replace(decisions, frequent_lines=found, num_buckets=max(buckets, 1))
    return replace(decisions, excess_lines=found)


def write_lines(
    shard: Shard, output: Path, config: Config, decisions: Decisions, num_partitions: int, num_buckets: int
) -> int:
    """Counts (llama) or occurrences (dots) of the lines of one shard, by partition of the line."""
    rest = remaining(shard, decisions, config, ["id", "text"])
    parts, start = [], 0
    for piece in [*slices(rest.table, "text")] or [rest.table]:
        lines = text_lines(characters(piece["text"]))
        rows = rest.rows[start : start + piece.num_rows]
        start += piece.num_rows
        if config.lines.rule == "llama":
            parts.append(counted_lines(lines, line_buckets(piece, num_buckets)))
        else:
            parts.append(edge_lines(lines, config.lines, rows, document_order(piece)))
    table = pa.concat_tables(parts)
    write_partitions(table, partitions_of(table["hash"].to_numpy(), num_partitions), num_partitions, output)
    return table.num_rows


def reduce_lines(sources: list[Path], partition: int, output: Path, config: Config) -> int:
    """Lines to remove everywhere (llama) or occurrences to remove (dots)."""
    table = read_partition(sources, partition)
    found = frequent_lines(table, config.lines) if config.lines.rule == "llama" else excess_lines(table, config.lines)
    write_rows(found, output)
    return found.num_rows
