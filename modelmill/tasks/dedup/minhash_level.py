"""Shards → rows dropped because a band of their MinHash values is that of another document, by connected components."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from modelmill.tasks.dedup import exact
from modelmill.tasks.dedup.clusters import band_edges, cluster_losers, components
from modelmill.tasks.dedup.config import Config
from modelmill.tasks.dedup.job import Job, beside
from modelmill.tasks.dedup.known import known_rows, with_survivor_ids
from modelmill.tasks.dedup.minhash import band_hashes
from modelmill.tasks.dedup.shards import Decisions, Shard, remaining
from modelmill.tasks.dedup.shuffle import partitions_of, read_partition, read_rows, write_partitions, write_rows
from modelmill.tasks.files import atomic_path
from modelmill.tasks.stage import Call
from modelmill.tasks.text.flat import characters, slices

# Files beside a shard's bands: what the choice of survivors needs; beside a partition's edges: rows known before.
KEYS, EARLIER = ".keys", ".earlier"


def decide_minhash(job: Job, decisions: Decisions) -> Decisions:
    """Rows of each cluster but one; all rows of a cluster that reaches into an earlier artifact."""
    # One key a band: as many more partitions keep memory where it was.
    count = job.config.minhash.bands * job.num_partitions if job.num_partitions > 1 else 1
    bands = job.over_shards(write_bands, "bands", decisions=decisions, num_partitions=count)
    edges = job.over_partitions(reduce_bands, "edges", bands, count, num_partitions=count, earlier=job.earlier)
    output = job.folder("clusters") / "dropped.arrow"
    arguments = {
        "edges": edges,
        "keys": [beside(path, KEYS) for path in bands],
        "num_rows": job.num_rows,
        "output": output,
        "earlier": job.earlier,
    }
    job.pool.map(reduce_clusters, [Call(f"clusters-{job.num_partitions}", arguments)], "dedup clusters")
    return decisions.after("earlier_minhash", [beside(output, EARLIER)]).after("minhash", [output])


def write_bands(shard: Shard, output: Path, config: Config, decisions: Decisions, num_partitions: int) -> int:
    """Band hashes of one shard by partition, and beside them what the choice of survivors needs."""
    rest = remaining(shard, decisions, config, exact.KEY_COLUMNS)
    hashes, rows, lengths, start = [], [], [np.zeros(0, np.int64)], 0
    for piece in slices(rest.table, "text"):
        texts = characters(piece["text"])
        of_piece, num_words = band_hashes(texts, config.minhash)
        has_words = num_words > 0
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
    write_rows(keys.add_column(0, "row", pa.array(rest.rows)), beside(output, KEYS))
    return rest.table.num_rows


def reduce_bands(
    sources: list[Path], partition: int, output: Path, config: Config, num_partitions: int, earlier: Sequence[Path]
) -> int:
    """Pairs of rows that agree in a band of this partition, and beside them rows that agree with an earlier one."""
    table = read_partition(sources, partition)
    if earlier:
        write_rows(known_rows(table, earlier, "bands", partition, num_partitions), beside(output, EARLIER))
    edges = band_edges(table["hash"].to_numpy(), table["row"].to_numpy())
    with atomic_path(output) as temporary, temporary.open("wb") as file:
        np.save(file, edges)
    return len(edges)


def reduce_clusters(edges: list[Path], keys: list[Path], num_rows: int, output: Path, earlier: Sequence[Path]) -> int:
    """All but one row of each connected component, beside them all rows of components that were known before."""
    labels = components((np.load(path) for path in edges), num_rows)
    known, survivors = _known_clusters([beside(path, EARLIER) for path in edges] if earlier else [], labels)
    clustered = np.zeros(num_rows, bool)
    others = np.flatnonzero(labels != np.arange(num_rows))
    clustered[others] = True
    clustered[labels[others]] = True
    clustered &= ~np.isin(labels, known)
    parts, before = [], []
    for path in keys:
        table = read_rows(path)
        rows = table["row"].to_numpy()
        chosen = np.flatnonzero(clustered[rows])
        parts.append(table.take(pa.array(chosen)).append_column("cluster", pa.array(labels[rows[chosen]])))
        before.append(rows[np.isin(labels[rows], known)])
    rows = np.concatenate(before)
    of_row = survivors[np.searchsorted(known, labels[rows])]
    write_rows(with_survivor_ids(pa.table({"row": rows, "survivor": of_row}), earlier), beside(output, EARLIER))
    dropped = cluster_losers(pa.concat_tables(parts))
    write_rows(dropped, output)
    return len(rows) + dropped.num_rows


def _known_clusters(paths: list[Path], labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Labels of the components with a row that was known before, in order, and the smallest survivor of each."""
    tables = [read_rows(path) for path in paths]
    rows = np.concatenate([np.zeros(0, np.int64), *(table["row"].to_numpy() for table in tables)])
    survivors = np.concatenate([np.zeros(0, np.uint64), *(table["survivor"].to_numpy() for table in tables)])
    known, first = np.unique(labels[rows], return_inverse=True)
    smallest = np.full(len(known), np.iinfo(np.uint64).max)
    np.minimum.at(smallest, first, survivors)
    return known, smallest
