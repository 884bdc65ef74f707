"""One table, or a few shards → kept and dropped rows, by the stage's own code in this process."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from modelmill.tasks.dedup.config import Config
from modelmill.tasks.dedup.earlier import usable_folders
from modelmill.tasks.dedup.job import Job, numbered_shards
from modelmill.tasks.dedup.keys import key_levels
from modelmill.tasks.dedup.pipeline import decide
from modelmill.tasks.dedup.shards import Decisions, Shard, remaining
from modelmill.tasks.stage import Call
from modelmill.tasks.text.shards import write_shard


class SerialPool:
    """Runs every call in this process, one after another; nothing is recorded."""

    num_workers = 1
    layout = None

    def map(self, function: Callable[..., Any], calls: Sequence[Call], label: str) -> list[Any]:
        """Results in the order of the calls."""
        return [function(**call.arguments) for call in calls]

    def run(self, function: Callable[..., Any], arguments: dict[str, Any], label: str, layout: Any = None) -> Any:
        """One call."""
        return function(**arguments)


def dedup_rows(table: pa.Table, config: Config) -> tuple[pa.Table, pa.Table]:
    """Kept and dropped rows of a table with `id`, `text` and, if it has them, `url` and `date`.

    Both keep the table's columns and order; dropped rows get `reason` and `survivor` (an id).
    """
    with tempfile.TemporaryDirectory(prefix="mill-dedup-") as folder:
        source = Path(folder) / "rows.parquet"
        write_shard(table, source)
        earlier = usable_folders(config.earlier, key_levels(config)) if config.earlier else []
        shards = numbered_shards([source], config.rows_per_call, 1)
        job = Job(shards, config, SerialPool(), Path(folder) / "work", tuple(earlier))
        decisions = decide(job) if job.shards else Decisions()
        rest = remaining(Shard(((source, table.num_rows),), 0), decisions, config)
        return rest.table, rest.dropped
