"""Generated documents → CPU-seconds, memory and digests of dedup as data, workers and nodes grow.

Wall times count too: run it on a quiet machine.
"""

import concurrent.futures
import json
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console

from modelmill.flows.benches.dedup import generated_texts, stage_context
from modelmill.flows.benches.measured import Measured, check_place
from modelmill.flows.environment import mill_home
from modelmill.services.compute import Compute, ComputeConfig
from modelmill.services.ray_session import start_cluster
from modelmill.tasks.dedup.config import Config
from modelmill.tasks.dedup.stage import run
from modelmill.tasks.files import file_digest, value_digest, write_output
from modelmill.tasks.journal import Journal
from modelmill.tasks.parent_death import end_with_parent
from modelmill.tasks.stage import Call, Pool
from modelmill.tasks.text.shards import write_shard

STEP = "dedup, all levels"
SHARD_DOCUMENTS = 4_000
BYTES_PER_DOCUMENT = 2_700  # about, of 500 generated words


def measure(
    megabytes: float = 100, times: int = 10, workers: Sequence[int] = (1, 2, 4), nodes: int = 2
) -> list[Measured]:
    """One process on the data and on `times` as much; then Ray with each number of workers, and a cluster of nodes.
    A partition takes the keys of as many documents as the smaller data has.

    Rates are per CPU-second of the calls. `seconds` is the wall time of the stage, `peak MB` the largest process's
    memory, and `same digest` is 1 where the output is the same bytes as that of one process.
    """
    measured = []
    with tempfile.TemporaryDirectory(prefix="mill-bench-") as name:
        folder = Path(name)
        documents = int(megabytes * 1e6 / BYTES_PER_DOCUMENT)
        small = write_documents(folder / "small", documents)
        first = _apart(folder / "small", folder / "one", documents, "process", 1, 1)
        measured.append(_measured("one process", small, first, first))
        for count in workers:
            found = _apart(folder / "small", folder / f"workers-{count}", documents, "ray", count, 1)
            measured.append(_measured(f"Ray, {count} workers", small, found, first))
        if nodes > 1:
            found = _apart(folder / "small", folder / "nodes", documents, "ray", nodes, nodes)
            measured.append(_measured(f"Ray, {nodes} nodes of one core", small, found, first))
        large = write_documents(folder / "large", documents * times)
        found = _apart(folder / "large", folder / "large-one", documents, "process", 1, 1)
        measured.append(_measured(f"one process, {times} times the data", large, found, None))
    return measured


def write_documents(folder: Path, num_documents: int) -> float:
    """Shards of generated documents, each with its own near duplicates → MB of text."""
    num_bytes = 0
    for number, first in enumerate(range(0, num_documents, SHARD_DOCUMENTS)):
        texts = generated_texts(min(SHARD_DOCUMENTS, num_documents - first), seed=number)
        ids = [f"{first + i:012d}" for i in range(len(texts))]
        table = pa.table({"id": ids, "url": [f"https://a.org/{name}" for name in ids], "text": texts})
        write_shard(table, folder / "documents" / f"part-{number:05d}.parquet")
        num_bytes += sum(map(len, texts))
    return num_bytes / 1e6


def _measured(what: str, megabytes: float, found: dict[str, Any], first: dict[str, Any] | None) -> Measured:
    quality = {"seconds": found["seconds"], "peak MB": found["peak_bytes"] / 1e6, "MB": megabytes}
    if first is not None:
        quality["same digest"] = float(found["digest"] == first["digest"])
    return Measured(STEP, what, megabytes / found["cpu_seconds"], "MB/s", quality)


def _apart(source: Path, workspace: Path, partition: int, backend: str, workers: int, nodes: int) -> dict[str, Any]:
    """`dedup_once` in a process of its own, whose memory nobody has used before."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context, end_with_parent, (os.getpid(),)) as executor:
        return executor.submit(dedup_once, source, workspace, partition, backend, workers, nodes).result()


def dedup_once(source: Path, workspace: Path, partition: int, backend: str, workers: int, nodes: int) -> dict[str, Any]:
    """The stage over `source` → digest of its output, CPU-seconds of its calls, wall seconds, peak of a process."""
    config = ComputeConfig.model_validate({"backend": backend, "workers": workers, "device": "cpu"})
    settings = Config(rows_per_shard=SHARD_DOCUMENTS, rows_per_partition=partition)
    compute, cluster = Compute(config, mill_home()), _cluster(nodes)
    try:
        journal = Journal(workspace / "journal.jsonl")
        pool = _CountingPool(compute.pool(workspace, journal))
        started = time.monotonic()
        run(stage_context(source, workspace, settings, pool))
        seconds = time.monotonic() - started
    finally:
        compute.stop()
        if cluster is not None:
            cluster.shutdown()
    files = sorted(path for part in ("documents", "keys") for path in (workspace / "output" / part).iterdir())
    digest = value_digest([[path.name, file_digest(path)] for path in files])
    return {"digest": digest, "cpu_seconds": pool.cpu_seconds, "seconds": seconds, "peak_bytes": pool.peak_bytes}


def _cluster(nodes: int) -> Any:
    """A Ray cluster of several raylets with one core each on this machine, or None for one node."""
    if nodes == 1:
        return None
    node = {"num_cpus": 1, "object_store_memory": 100_000_000}
    cluster = start_cluster(mill_home(), **node)
    for _ in range(nodes - 1):
        cluster.add_node(**node)
    os.environ["RAY_ADDRESS"] = str(cluster.address)
    return cluster


class _CountingPool:
    """A pool that adds up what its calls cost, wherever they ran."""

    layout = None

    def __init__(self, pool: Pool) -> None:
        self.num_workers = pool.num_workers
        self.cpu_seconds, self.peak_bytes = 0.0, 0
        self._pool = pool

    def map(self, function: Callable[..., Any], calls: Sequence[Call], label: str) -> list[Any]:
        """See `Pool.map`."""
        counted = [Call(call.name, {"function": function, "arguments": call.arguments}) for call in calls]
        results = self._pool.map(_counted_call, counted, label)
        self.cpu_seconds += sum(each["cpu_seconds"] for each in results)
        self.peak_bytes = max([self.peak_bytes, *(each["peak_bytes"] for each in results)])
        return [each["result"] for each in results]

    def run(self, function: Callable[..., Any], arguments: dict[str, Any], label: str, layout: Any = None) -> Any:
        """See `Pool.run`."""
        return self._pool.run(function, arguments, label, layout)


def _counted_call(function: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    before = time.process_time()
    result = function(**arguments)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"result": result, "cpu_seconds": time.process_time() - before, "peak_bytes": peak}


def bench_dedup(
    console: Console, megabytes: float, times: int, workers: Sequence[int], nodes: int, output: Path | None
) -> None:
    """Measure, print a line for each case, and write JSON to `output` if given.

    Raises:
        InputError: no folder for the output.
    """
    check_place(output)
    rows = measure(megabytes, times, workers, nodes)
    for row in rows:
        figures = ", ".join(f"{name} {value:.1f}" for name, value in row.quality.items())
        console.print(f"{row.tool}: {row.rate:.2f} {row.unit} a core; {figures}", highlight=False)
    if output:
        write_output(output, json.dumps([asdict(row) for row in rows], indent=1) + "\n")
