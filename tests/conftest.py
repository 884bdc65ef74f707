"""What every test shares: quiet libraries, and a pool that runs tasks in this process."""

import os
import tempfile
from pathlib import Path

import pytest

from modelmill.flows.environment import prepare_environment
from modelmill.services.compute import ComputeConfig, ProcessExecutor, RecordedPool
from modelmill.tasks.journal import Journal

# A worker of pytest-xdist inherits what this file set in the process that started it; it needs a home of its own.
if "PYTEST_XDIST_WORKER" in os.environ:
    for name in ("MILL_HOME", "PREFECT_HOME", "PREFECT_LOCAL_STORAGE_PATH"):
        os.environ.pop(name, None)
# State of the tests never meets a user's own: set before any test imports Prefect, MLflow or Ray.
_HOME = Path(os.environ.setdefault("MILL_HOME", tempfile.mkdtemp(prefix="mill-tests-")))
prepare_environment(_HOME)
# Ray's workers import what a test hands them by its module's name.
os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share an expensive fixture stay in one worker: those of a file, and all that use the running stack."""
    for item in items:
        shared = "stack" if "stack" in getattr(item, "fixturenames", ()) else item.path.as_posix()
        item.add_marker(pytest.mark.xdist_group(shared))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty MILL_HOME of this test's own."""
    folder = tmp_path / "home"
    monkeypatch.setenv("MILL_HOME", str(folder))
    return folder


@pytest.fixture
def pool(tmp_path: Path) -> RecordedPool:
    """The real pool, one call after another in this process."""
    workspace = tmp_path / "workspace"
    return RecordedPool(
        ProcessExecutor(), ComputeConfig(backend="process"), workspace, Journal(workspace / "journal.jsonl")
    )
