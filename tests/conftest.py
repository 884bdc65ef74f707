"""What every test shares: quiet libraries, one running stack, and a pool that runs tasks in this process."""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

from modelmill.flows.environment import prepare_environment
from modelmill.services.compute import ComputeConfig, ProcessExecutor, RecordedPool
from modelmill.services.home import prepare_home
from modelmill.services.processes import COMMAND
from modelmill.services.stack import start_stack, stop_stack
from modelmill.tasks.journal import Journal
from tests.flows.tiny import Stack
from tests.listening import ListeningWatch

_TESTS = Path(__file__).resolve().parent

# State of the tests never meets a user's own, nor that of another worker, which inherits the environment: set before
# any test imports Prefect, MLflow or Ray.
for name in ("MILL_HOME", "PREFECT_HOME", "PREFECT_LOCAL_STORAGE_PATH"):
    os.environ.pop(name, None)
_HOME = Path(tempfile.mkdtemp(prefix="mill-tests-"))
# Compiled code is kept from one test run to the next.
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"torchinductor_{os.geteuid()}"))
prepare_environment(_HOME)
# Three workers share two cores: a thread that waits for another must not keep a core busy.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
# Ray's workers import what a test hands them by its module's name.
os.environ["PYTHONPATH"] = str(_TESTS.parent)


# What takes minutes starts first, so that the workers end together.
_LONGEST = [
    "flows/test_kill.py",
    "flows/test_browser.py",
    "flows/test_deployments.py",
    "security/test_foreign_pages.py",
    "flows/test_rerun.py",
    "services/test_inference.py",
    "services/test_serving.py",
    "flows/test_line.py",
    "reliability/test_first_start.py",
]
_WITH_STACK = ("flows/test_browser.py", "flows/test_deployments.py", "security/test_foreign_pages.py")


_WATCH = ListeningWatch()


def pytest_sessionstart() -> None:
    _WATCH.start()


@pytest.fixture(autouse=True)
def closed_to_the_network() -> Iterator[None]:
    """Nothing that the tests start may listen beyond loopback. A hook at the end would not reach xdist's controller."""
    yield
    if exposed := _WATCH.take():
        pytest.fail("\n".join(exposed))


def pytest_unconfigure() -> None:
    shutil.rmtree(_HOME, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        name = item.path.relative_to(_TESTS).as_posix()
        return _LONGEST.index(name) if name in _LONGEST else len(_LONGEST)

    items.sort(key=place)


class _ByFixtures(LoadFileScheduling):
    """The tests of a file run in one worker, as their fixtures may be expensive; so do all that use the stack."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "stack" if file.endswith(_WITH_STACK) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _ByFixtures:
    return _ByFixtures(config, log)


@pytest.fixture(autouse=True)
def no_temporary_folder_of_a_command() -> Iterator[None]:
    """A test that runs a command in this process gets that command's temporary folder; the next test must not."""
    kept = {name: os.environ.get(name) for name in ("TMPDIR", COMMAND)}, tempfile.tempdir
    yield
    variables, tempfile.tempdir = kept
    for name, value in variables.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


@pytest.fixture(scope="session")
def prefect_database(tmp_path_factory: pytest.TempPathFactory) -> None:
    """This worker's Prefect database with its tables, which take a quarter of a minute: made once, copied by others."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # the workers' common one
    own, made = Path(os.environ["PREFECT_HOME"]) / "prefect.db", folder / "prefect.db"
    with (folder / "prefect.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"]
            subprocess.run(command, check=True, capture_output=True)
            shutil.copyfile(own, made)
    own.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(made, own)


@pytest.fixture(scope="session")
def stack(prefect_database: None) -> Iterator[Stack]:
    """Prefect, MLflow, Ray and the deployments on free ports, for all tests that need them; it takes a while."""
    kept = {name: os.environ.pop(name, None) for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "RAY_ADDRESS")}
    with tempfile.TemporaryDirectory(prefix="mill-stack-") as folder:
        home = Path(folder)
        prepare_home(home)
        try:
            yield Stack(home, start_stack(home, prefect_port=0, mlflow_port=0, ray_port=0))
        finally:
            stop_stack(home)
            os.environ.update({name: value for name, value in kept.items() if value is not None})


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
