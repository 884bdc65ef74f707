"""Homes where everything starts for the first time, is killed meanwhile, or was left half-made by an older version."""

import contextlib
import os
import signal
import sqlite3
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from modelmill.flows.prefect_database import prepare_prefect
from modelmill.services import databases
from modelmill.services.databases import prepare_mlflow
from modelmill.tasks.errors import ResourceError
from tests.flows.forked import context, start_mill
from tests.flows.tiny import Tiny

ROOT = Path(__file__).resolve().parents[2]
Made = tuple[Callable[[Path], None], str]
BOTH = pytest.mark.parametrize(
    ("prepare", "name"), [(prepare_mlflow, "mlflow.db"), (prepare_prefect, "prefect.db")], ids=["mlflow", "prefect"]
)


def start(prepare: Callable[[Path], None], home: Path, name: str) -> BaseProcess:
    process = context().Process(target=prepare, args=(home if name == "mlflow.db" else home / name,))
    process.start()
    return process


def num_tables(path: Path) -> int:
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table'").fetchone()[0]
    return 0


def kill_at(process: BaseProcess, path: Path, pattern: str, tables: int) -> None:
    """Kill a process as soon as it has made so many tables of a database."""
    while not any(num_tables(found) >= tables for found in path.parent.glob(pattern)):
        assert process.is_alive()
        time.sleep(0.002)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL


@BOTH
def test_a_database_whose_maker_is_killed_is_made_by_the_next_of_several(
    tmp_path: Path, prepare: Callable[[Path], None], name: str
) -> None:
    for tables in (1, 6, 12):
        kill_at(start(prepare, tmp_path, name), tmp_path / name, f".{name}.*.tmp", tables)
        assert not (tmp_path / name).exists()
    together = [start(prepare, tmp_path, name) for _ in range(3)]
    for process in together:
        process.join()
    assert [process.exitcode for process in together] == [0, 0, 0]
    assert num_tables(tmp_path / name) > 20
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()} - {".prefect.db.lock", "mlflow.lock"}
    assert left == {name}


def test_a_database_that_an_older_version_left_half_made_is_made_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "mlflow.db"
    process = context().Process(target=databases._make_mlflow, args=(path,))
    process.start()
    kill_at(process, path, "mlflow.db", 8)
    prepare_mlflow(tmp_path)
    assert num_tables(path) > 20
    assert len(list(tmp_path.glob("mlflow.db.half-made-*[0-9]"))) == 1
    assert "was left half-made and held no run" in caplog.text
    prepare_mlflow(tmp_path)
    # One of another version that holds runs is nobody's to replace.
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("INSERT INTO runs (run_uuid) VALUES ('1')")
        connection.execute("UPDATE alembic_version SET version_num = 'older'")
        connection.commit()
    with pytest.raises(ResourceError, match=r"has schema older; this MLflow needs schema .*`mlflow db upgrade"):
        prepare_mlflow(tmp_path)
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(ResourceError, match=r"no schema that can be read.*move it away"):
        prepare_mlflow(tmp_path)


@pytest.mark.timeout(400)
def test_first_runs_that_start_at_once_all_work_after_one_that_was_killed(tiny: Tiny, tmp_path: Path) -> None:
    """A minute: each starts Prefect's server and MLflow in an empty home, as a first `mill run` does."""
    home = tmp_path / "home"
    environment = {"MILL_HOME": str(home), "PREFECT_HOME": str(home / "prefect")}
    environment["PREFECT_LOCAL_STORAGE_PATH"] = str(home / "prefect" / "storage")

    def run(name: str) -> BaseProcess:
        log = tmp_path / f"{name}.log"
        return start_mill(ROOT, ["run", str(tiny.recipe)], environment, log, log)

    first = run("killed")
    while not list(home.glob("**/.*.db.*.tmp")):
        assert first.is_alive(), (tmp_path / "killed.log").read_text()
        time.sleep(0.002)
    os.killpg(first.pid or 0, signal.SIGKILL)
    first.join()
    together = [run(str(number)) for number in range(3)]
    for number, process in enumerate(together):
        process.join()
        assert process.exitcode == 0, (tmp_path / f"{number}.log").read_text()
    assert [path.name for path in home.glob("*.db")] == ["mlflow.db"]
    assert not list(home.glob("**/.*.tmp*"))
