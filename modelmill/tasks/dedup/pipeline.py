"""Shards of documents → decisions of every level, each a map over shards, then a reduction over partitions.

Every step leaves files in the workspace and returns only counts, so the pool can resume it; no step holds more than
one shard or one partition in memory, except the components, which hold eight bytes a document.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from modelmill.tasks.dedup import exact
from modelmill.tasks.dedup.clusters import band_edges, cluster_losers, components
from modelmill.tasks.dedup.config import Config
from modelmill.tasks.dedup.lines import counted_lines, edge_lines, excess_lines, frequent_lines, text_lines
from modelmill.tasks.dedup.minhash import band_hashes
from modelmill.tasks.dedup.shards import Decisions, Shard, document_order, line_buckets, remaining
from modelmill.tasks.dedup.shuffle import partitions_of, read_partition, write_partitions, write_rows
from modelmill.tasks.files import atomic_path
from modelmill.tasks.stage import Call, Pool
from modelmill.tasks.text.flat import characters, slices
from modelmill.tasks.text.shards import read_shard, shard_rows


@dataclass(frozen=True)
class Job:
    """What the steps of one deduplication share."""

    shards: list[Shard]
    config: Config
    pool: Pool
    workspace: Path

    @property
    def num_rows(self) -> int:
        """Documents in all shards."""
        return sum(shard.num_rows for shard in self.shards)

    @property
    def num_partitions(self) -> int:
        """Partitions of a step with one key a document."""
        return max(1, -(-self.num_rows // self.config.rows_per_partition))

    def _folder(self, name: str) -> Path:
        # The number of partitions is placement: a run that goes on with another must not take the first one's files.
        return self.workspace / f"{name}-{self.num_partitions}"

    def over_shards(self, function: Callable, folder: str, **arguments: object) -> list[Path]:
        """Call `function(shard=, output=, config=, ...)` for each shard → the files that it wrote."""
        outputs = [self._folder(folder) / shard.name for shard in self.shards]
        shared = {"config": self.config, **arguments}
        calls = [
            Call(f"{output.stem}-{self.num_partitions}", {"shard": shard, "output": output, **shared})
            for shard, output in zip(self.shards, outputs, strict=True)
        ]
        self.pool.map(function, calls, f"dedup {folder}")
        return outputs

    def over_partitions(
        self, function: Callable, folder: str, sources: list[Path], count: int, **arguments: object
    ) -> list[Path]:
        """Call `function(sources=, partition=, output=, config=, ...)` for each partition → the files it wrote."""
        outputs = [self._folder(folder) / f"{partition:06d}.arrow" for partition in range(count)]
        shared = {"sources": sources, "config": self.config, **arguments}
        calls = [
            Call(f"{output.stem}-{count}", {"partition": partition, "output": output, **shared})
            for partition, output in enumerate(outputs)
        ]
        self.pool.map(function, calls, f"dedup {folder}")
        return outputs


def numbered_shards(paths: Sequence[Path]) -> list[Shard]:
    """Shards with their rows numbered through; empty ones, which would share a number, are left out."""
    shards: list[Shard] = []
    for path in paths:
        if num_rows := shard_rows(path):
            shards.append(Shard(path, shards[-1].stop if shards else 0, num_rows))
    return shards


def decide(job: Job) -> Decisions:
    """Run the levels that the recipe switches on, each on what the one before it kept."""
    decisions = Decisions()
    if job.config.url or job.config.exact:
        decisions = _decide_exact(job, decisions)
    if job.config.lines.rule != "none":
        decisions = _decide_lines(job, decisions)
    if job.config.minhash.enabled:
        decisions = _decide_minhash(job, decisions)
    return decisions


def _decide_exact(job: Job, decisions: Decisions) -> Decisions:
    count = job.num_partitions
    keys = job.over_shards(write_keys, "keys", num_partitions=count)
    dropped = job.over_partitions(reduce_addresses, "url", keys, count, num_partitions=count)
    if job.config.url:
        decisions = decisions.after("url", dropped)
    if job.config.exact:
        unique = [_keys_beside(path) for path in dropped]
        decisions = decisions.after("exact", job.over_partitions(reduce_texts, "exact", unique, count))
    return decisions


def _keys_beside(path: Path) -> Path:
    return path.with_suffix(".keys")


def write_keys(shard: Shard, output: Path, config: Config, num_partitions: int) -> int:
    """Keys of one shard, by partition of the address (of the text where there is none)."""
    keys = exact.document_keys(read_shard(shard.path, exact.KEY_COLUMNS), shard.first_row)
    hashes = keys["url_hash"].fill_null(0).to_numpy()
    hashes = np.where(keys["url_hash"].is_null().to_numpy(), keys["exact_low"].to_numpy(), hashes)
    write_partitions(keys, partitions_of(hashes, num_partitions), num_partitions, output)
    return keys.num_rows


def reduce_addresses(sources: list[Path], partition: int, output: Path, config: Config, num_partitions: int) -> int:
    """Newest row of each address: dropped rows to `output`, keys of the others beside it by partition of the text."""
    keys = read_partition(sources, partition)
    dropped = pa.table({"row": pa.array([], pa.int64()), "survivor": pa.array([], pa.large_string())})
    if config.url:
        keys, dropped = exact.newest_of_address(keys)
    by_text = partitions_of(keys["exact_low"].to_numpy(), num_partitions)
    write_partitions(keys, by_text, num_partitions, _keys_beside(output))
    write_rows(dropped, output)
    return dropped.num_rows


def reduce_texts(sources: list[Path], partition: int, output: Path, config: Config) -> int:
    """One row of each normalised text: dropped rows."""
    dropped = exact.one_of_text(read_partition(sources, partition))[1]
    write_rows(dropped, output)
    return dropped.num_rows


def _decide_lines(job: Job, decisions: Decisions) -> Decisions:
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
    rest = remaining(shard, decisions, config.lines, ["id", "text"])
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


def _decide_minhash(job: Job, decisions: Decisions) -> Decisions:
    # One key a band: as many more partitions keep memory where it was.
    count = job.config.minhash.bands * job.num_partitions if job.num_partitions > 1 else 1
    bands = job.over_shards(write_bands, "bands", decisions=decisions, num_partitions=count)
    edges = job.over_partitions(reduce_bands, "edges", bands, count)
    output = job.workspace / f"clusters-{job.num_partitions}" / "dropped.arrow"
    arguments = {
        "edges": edges,
        "keys": [_keys_beside(path) for path in bands],
        "num_rows": job.num_rows,
        "output": output,
    }
    job.pool.map(reduce_clusters, [Call(f"clusters-{job.num_partitions}", arguments)], "dedup clusters")
    return decisions.after("minhash", [output])


def write_bands(shard: Shard, output: Path, config: Config, decisions: Decisions, num_partitions: int) -> int:
    """Band hashes of one shard by partition, and beside them what the choice of survivors needs."""
    rest = remaining(shard, decisions, config.lines, exact.KEY_COLUMNS)
    hashes, rows, lengths, start = [], [], [np.zeros(0, np.int64)], 0
    for piece in slices(rest.table, "text"):
        texts = characters(piece["text"])
        of_piece, has_words = band_hashes(texts, config.minhash)
        hashes.append(of_piece[has_words].ravel())
        rows.append(np.repeat(rest.rows[start : start + piece.num_rows][has_words], config.minhash.bands))
        lengths.append(texts.lengths)
        start += piece.num_rows
    table = pa.table(
        {
            "hash": np.concatenate([np.zeros(0, np.uint64), *hashes]),
            "row": np.concatenate([np.zeros(0, np.int64), *rows]),
        }
    )
    write_partitions(table, partitions_of(table["hash"].to_numpy(), num_partitions), num_partitions, output)
    keys = exact.preference_keys(rest.table, np.concatenate(lengths))
    write_rows(keys.add_column(0, "row", pa.array(rest.rows)), _keys_beside(output))
    return rest.table.num_rows


def reduce_bands(sources: list[Path], partition: int, output: Path, config: Config) -> int:
    """Pairs of rows that agree in a band of this partition."""
    table = read_partition(sources, partition)
    edges = band_edges(table["hash"].to_numpy(), table["row"].to_numpy())
    with atomic_path(output) as temporary, temporary.open("wb") as file:
        np.save(file, edges)
    return len(edges)


def reduce_clusters(edges: list[Path], keys: list[Path], num_rows: int, output: Path) -> int:
    """All but one row of each connected component: dropped rows."""
    labels = components((np.load(path) for path in edges), num_rows)
    clustered = np.zeros(num_rows, bool)
    others = np.flatnonzero(labels != np.arange(num_rows))
    clustered[others] = True
    clustered[labels[others]] = True
    parts = []
    for path in keys:
        with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
            table = reader.read_all()
        rows = table["row"].to_numpy()
        chosen = np.flatnonzero(clustered[rows])
        parts.append(table.take(pa.array(chosen)).append_column("cluster", pa.array(labels[rows[chosen]])))
    dropped = cluster_losers(pa.concat_tables(parts))
    write_rows(dropped, output)
    return dropped.num_rows
