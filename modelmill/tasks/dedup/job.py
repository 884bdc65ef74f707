"""Shards, recipe and pool of one deduplication → calls over shards and over partitions, with the files they leave."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelmill.tasks.dedup.config import Config
from modelmill.tasks.dedup.earlier import earlier_documents
from modelmill.tasks.dedup.shards import Shard
from modelmill.tasks.stage import Call, Pool
from modelmill.tasks.text.shards import shard_rows

BYTES_TOGETHER = 25_000_000  # of compressed files, which hold about three times as much text


@dataclass(frozen=True)
class Job:
    """What the steps of one deduplication share."""

    shards: list[Shard]
    config: Config
    pool: Pool
    workspace: Path
    earlier: tuple[Path, ...] = ()

    @property
    def num_rows(self) -> int:
        """Documents in all shards."""
        return sum(shard.num_rows for shard in self.shards)

    @property
    def num_partitions(self) -> int:
        """Partitions of a step with one key a document, of this run or of an earlier one that it is compared with."""
        return max(1, -(-(self.num_rows + earlier_documents(self.earlier)) // self.config.rows_per_partition))

    def folder(self, name: str) -> Path:
        """The folder of a step's files."""
        # The number of partitions is placement: a run that goes on with another must not take the first one's files.
        return self.workspace / f"{name}-{self.num_partitions}"

    def over_shards(self, function: Callable, folder: str, **arguments: object) -> list[Path]:
        """Call `function(shard=, output=, config=, ...)` for each shard → the files that it wrote."""
        outputs = [self.folder(folder) / shard.name for shard in self.shards]
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
        outputs = [self.folder(folder) / f"{partition:06d}.arrow" for partition in range(count)]
        shared = {"sources": sources, "config": self.config, **arguments}
        calls = [
            Call(f"{output.stem}-{count}", {"partition": partition, "output": output, **shared})
            for partition, output in enumerate(outputs)
        ]
        self.pool.map(function, calls, f"dedup {folder}")
        return outputs


def beside(path: Path, suffix: str) -> Path:
    """A second file of the same step and shard."""
    return path.with_suffix(suffix)


def numbered_shards(paths: Sequence[Path], rows_together: int, num_workers: int) -> list[Shard]:
    """Shards with their rows numbered through: each file, or neighbours of together at most `rows_together` rows, fewer
    where that would leave less than two shards a worker. Empty files are left out.
    """
    files = [(path, num_rows) for path in paths if (num_rows := shard_rows(path))]
    most = min(rows_together, sum(num_rows for _, num_rows in files) // (2 * num_workers))
    shards: list[Shard] = []
    num_bytes = 0
    for path, num_rows in files:
        last, size = shards[-1] if shards else None, path.stat().st_size
        if last and last.num_rows + num_rows <= most and num_bytes + size <= BYTES_TOGETHER:
            shards[-1] = Shard((*last.files, (path, num_rows)), last.first_row)
            num_bytes += size
        else:
            shards.append(Shard(((path, num_rows),), last.stop if last else 0))
            num_bytes = size
    return shards
