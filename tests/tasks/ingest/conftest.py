"""Fixtures: a local web server, and a way to run the stage."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modelmill.tasks.ingest.config import Config
from modelmill.tasks.ingest.stage import run
from modelmill.tasks.journal import Journal
from modelmill.tasks.stage import StageContext, StageResult
from tests.tasks.ingest.web import LocalPool, Site


@pytest.fixture
def site() -> Iterator[Site]:
    server = Site()
    yield server
    server.close()


@pytest.fixture
def run_ingest(tmp_path: Path) -> Callable[..., tuple[StageResult, Path]]:
    """Run the stage over sources given as a recipe gives them; its result and its output folder."""

    def run_stage(*sources: dict[str, Any], workers: int = 1, name: str = "run", **config: Any) -> Any:
        workspace = tmp_path / name
        context = StageContext(
            config=Config.model_validate({"sources": list(sources), **config}),
            inputs={},
            workspace=workspace,
            output=workspace / "output",
            pool=LocalPool(workers),
            journal=Journal(workspace / "journal.jsonl"),
            sampler=lambda: pytest.fail("ingest needs no model"),
        )
        return run(context), workspace / "output"

    return run_stage
