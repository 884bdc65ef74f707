"""Documents made to be duplicates of each other in known ways."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from modelmill.tasks.dedup.config import Config
from modelmill.tasks.dedup.rows import SerialPool
from modelmill.tasks.dedup.stage import run
from modelmill.tasks.journal import Journal
from modelmill.tasks.stage import Artifact, Pool, StageContext, StageResult
from modelmill.tasks.text.shards import read_shard, write_shard

SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "url", "date", "source", "title", "text", "language")])


def document(name: str, text: str, url: str | None = None, date: str | None = None) -> dict[str, str | None]:
    return {"id": name, "url": url, "date": date, "source": "s", "title": "t", "text": text, "language": "en"}


def prose(seed: int, num_words: int = 120) -> str:
    """Random words, ten a line: two seeds share no 5-gram."""
    generator = random.Random(seed)
    words = ["".join(generator.choices("abcdefghij", k=6)) for _ in range(num_words)]
    return "\n".join(" ".join(words[i : i + 10]) for i in range(0, num_words, 10))


Rows = Sequence[dict[str, str | None]]


class StageRun:
    """The stage on given shards, and what it left."""

    def __init__(self, folder: Path, shards: Sequence[Rows], config: Config, pool: Pool | None = None) -> None:
        for number, rows in enumerate(shards):
            table = pa.Table.from_pylist(list(rows), schema=SCHEMA)
            write_shard(table, folder / "input" / "documents" / f"part-{number:05d}.parquet")
        documents = Artifact("documents", folder / "input", "digest", "clean", {})
        inputs = {"documents": [documents]}
        journal = Journal(folder / "journal.jsonl")
        self.output = folder / "output"
        context = StageContext(config, inputs, folder, self.output, pool or SerialPool(), journal, lambda: None)  # type: ignore[arg-type,return-value]
        self.result: StageResult = run(context)

    def table(self, part: str) -> pa.Table:
        return pa.concat_tables([read_shard(path) for path in sorted((self.output / part).iterdir())])

    def bytes(self, part: str = "documents") -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted((self.output / part).iterdir())}


@pytest.fixture
def stage(tmp_path: Path) -> Callable[..., StageRun]:
    runs = iter(range(100))
    return lambda shards, config, pool=None: StageRun(tmp_path / f"run-{next(runs)}", shards, config, pool)
