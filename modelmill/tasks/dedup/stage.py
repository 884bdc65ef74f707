"""documents/part-*.parquet → unique documents in the order of their ids, their keys, and dropped/ with reason."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from modelmill.tasks.dedup.config import Config
from modelmill.tasks.dedup.earlier import HEADER, usable_folders
from modelmill.tasks.dedup.hashing import mixed, string_hashes
from modelmill.tasks.dedup.job import Job, numbered_shards
from modelmill.tasks.dedup.keys import key_levels, kinds_of, level_files, merge_keys, place_keys
from modelmill.tasks.dedup.pipeline import decide
from modelmill.tasks.dedup.shards import Decisions, Shard, remaining
from modelmill.tasks.dedup.shuffle import partitions_of, read_partition, write_partitions
from modelmill.tasks.errors import InputError
from modelmill.tasks.files import write_json
from modelmill.tasks.stage import Call, StageContext, StageResult
from modelmill.tasks.text.shards import shard_paths, write_shard

REASONS = ("earlier_url", "url", "earlier_exact", "exact", "lines", "earlier_minhash", "minhash", "passages")


def run(context: StageContext) -> StageResult:
    """Drop duplicates by every level of the recipe, and leave keys for crawls to come.

    Raises:
        InputError: there is no document, none is left, or an earlier artifact cannot be compared.
    """
    config: Config = context.config
    sources = shard_paths(context.latest("documents").path / "documents")
    levels = key_levels(config)
    earlier = usable_folders(config.earlier, levels)
    job = Job(
        numbered_shards(sources, config.rows_per_call, context.pool.num_workers),
        config,
        context.pool,
        context.workspace / "dedup",
        tuple(earlier),
    )
    if not job.shards:
        raise InputError(f"no document in the {len(sources)} shards that dedup was given; look at what clean kept")
    decisions = decide(job)
    num_shards = -(-job.num_rows // config.rows_per_shard)
    placed = job.workspace / "kept"
    shared = {
        "decisions": decisions,
        "config": config,
        "num_shards": num_shards,
        "placed": placed,
        "output": context.output,
    }
    calls = [Call(shard.name, {"shard": shard, "levels": level_files(job, shard), **shared}) for shard in job.shards]
    reports = context.pool.map(place_shard, calls, "dedup rows")
    kept = [placed / shard.name for shard in job.shards]
    merges = [
        Call(f"part-{number:05d}", {"sources": kept, "partition": number, "output": context.output})
        for number in range(num_shards)
    ]
    rows_out = sum(context.pool.map(merge_shard, merges, "dedup documents"))
    _write_keys(job, levels, placed, num_shards, context.output / "keys")
    return _result(job, reports, rows_out)


def place_shard(
    shard: Shard,
    levels: dict[str, Path],
    decisions: Decisions,
    config: Config,
    num_shards: int,
    placed: Path,
    output: Path,
) -> dict[str, int]:
    """Apply all decisions to one shard: kept rows and keys by output file, dropped rows to dropped/ → drops by reason.

    levels: the files that `place_keys` takes keys from.
    """
    rest = remaining(shard, decisions, config)
    target = partitions_of(string_hashes(rest.table["id"], seed=5), num_shards)
    write_partitions(rest.table, target, num_shards, placed / shard.name)
    bounds = np.searchsorted(rest.dropped_rows, shard.file_starts)
    for (path, _), start, stop in zip(shard.files, bounds, bounds[1:], strict=False):
        write_shard(rest.dropped.slice(start, stop - start), output / "dropped" / path.name)
    place_keys(rest, shard, levels, num_shards, placed / "keys")
    return {entry["values"]: entry["counts"] for entry in rest.dropped["reason"].value_counts().to_pylist()}


def merge_shard(sources: list[Path], partition: int, output: Path) -> int:
    """Write one output shard, its rows in the order of their ids."""
    table = read_partition(sources, partition)
    # Rows of equal id and text differ in nothing that a level looks at, except their address where that is off.
    tie = mixed(*(string_hashes(table[name].cast(pa.large_string())) for name in ("id", "text")))
    ordered = table.append_column("tie", pa.array(tie)).sort_by([("id", "ascending"), ("tie", "ascending")])
    table = ordered.drop_columns("tie")
    write_shard(table, output / "documents" / f"part-{partition:05d}.parquet")
    return table.num_rows


def _write_keys(job: Job, levels: dict[str, Any], placed: Path, num_files: int, output: Path) -> None:
    """Merge the shards' keys into the artifact's, one file for each kind and output shard."""
    calls = []
    for kind in kinds_of(levels):
        sources = [placed / "keys" / kind / shard.name for shard in job.shards]
        calls += [
            Call(f"{kind}-{number:05d}", {"sources": sources, "kind": kind, "partition": number, "output": output})
            for number in range(num_files)
        ]
    job.pool.map(merge_keys, calls, "dedup keys of all")
    write_json(output / HEADER, {"levels": levels, "documents": job.num_rows})


def _result(job: Job, reports: list[dict[str, int]], rows_out: int) -> StageResult:
    dropped: dict[str, int] = {}
    for level in REASONS:
        count = sum(report.get(level, 0) for report in reports)
        if count:
            dropped[level] = count
    if rows_out == 0:  # every document consisted of repeated lines
        raise InputError(f"dedup left none of {job.num_rows} documents ({dropped}); relax dedup.lines in the recipe")
    summary = [f"{rows_out} of {job.num_rows} documents are unique.", "", "| level | dropped |", "|---|---|"]
    summary += [f"| {level} | {count} |" for level, count in dropped.items()]
    metrics: dict[str, Any] = {"duplicate_share": 1 - rows_out / job.num_rows}
    return StageResult(job.num_rows, rows_out, "documents", dropped, metrics, "\n".join(summary))
