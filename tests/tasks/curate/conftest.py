"""A small set of unique documents, and a context over the real pool to curate it in."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from modelmill.tasks.curate.config import Config
from modelmill.tasks.journal import Journal
from modelmill.tasks.stage import Artifact, Pool, StageContext
from tests.tasks.curate.small_unique import documents, write_suite


@pytest.fixture
def unique(tmp_path: Path) -> Artifact:
    folder = tmp_path / "unique"
    (folder / "documents").mkdir(parents=True)
    for part in range(3):
        pq.write_table(documents(part), folder / "documents" / f"part-{part:05d}.parquet")
    return Artifact("unique", folder, "0" * 64, "dedup", {})


@pytest.fixture
def recipe(tmp_path: Path) -> dict[str, Any]:
    return {
        "quality": {"positive": {"min_prose": 0.8}, "negative": {"max_prose": 0.2}, "threshold": 0.3},
        "domains": {"farm": {"urls": [r"//farm\."]}, "town": {"urls": [r"//town\."], "sources": ["crawl"]}},
        "suites": [{"suite": str(write_suite(tmp_path)), "ratio": 0.6}],
        "validation_share": 0.05,
        "min_validation_documents": 3,
    }


@pytest.fixture
def make_context(unique: Artifact, pool: Pool, tmp_path: Path) -> Callable[..., StageContext]:
    def make(config: dict[str, Any]) -> StageContext:
        return StageContext(
            config=Config.model_validate(config),
            inputs={"unique": [unique]},
            workspace=tmp_path / "workspace",
            output=tmp_path / "workspace" / "output",
            pool=pool,
            journal=Journal(tmp_path / "workspace" / "journal.jsonl"),
            sampler=lambda: pytest.fail("curate samples from no model"),
        )

    return make
