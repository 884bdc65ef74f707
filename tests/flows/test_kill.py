"""A line killed inside each stage in turn, and run again → the same bytes as a line that nobody touched."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from modelmill.flows.cli import main
from modelmill.services.prefect_server import prefect_api, wait_until_healthy
from modelmill.tasks.catalog import STAGES

ROOT = Path(__file__).resolve().parents[2]
# What shows that a stage is in the middle of its work, below its workspace; it is killed as soon as that is there.
UNDER_WAY = {
    "ingest": "done/*/*.json",
    "scaling": "done/*/*.json",
    "pretrain": "**/states/*",
    "extend": "**/states/*",
    "anneal": "**/states/*",
    "align": "records/*.json",
    "evaluate": "done/*/*.json",
}


# Every run is a process of its own, forked from one that has done the imports.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["modelmill.flows.line", "modelmill.flows.report", "mlflow.store.tracking.sqlalchemy_store", "transformers"]
    + ["vllm.entrypoints.llm", "vllm.v1.engine.llm_engine"]
    + [spec.entry_module for spec in STAGES.values()]
)


def mill(home: Path, arguments: Sequence[str]) -> None:
    """The body of a run: `mill run tiny` in a session of its own."""
    os.setsid()
    with (home / "output.log").open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.environ |= {"MILL_HOME": str(home), "PREFECT_HOME": str(home / "prefect")}
    os.chdir(ROOT)
    sys.argv = ["mill", "run", "tiny", "--compute", "process", *arguments]
    main()


def start(home: Path, *arguments: str) -> BaseProcess:
    home.mkdir(exist_ok=True)
    process = CONTEXT.Process(target=mill, args=(home, arguments))
    process.start()
    return process


def kill_inside(home: Path, stage: str) -> None:
    """Run the line until `stage` works, then kill it and all that it started."""
    process = start(home, "--to", stage)
    pattern = UNDER_WAY.get(stage, "identity.json")
    while not list(home.glob(f"work/{stage}-*/{pattern}")):
        assert process.is_alive(), f"the line ended before {stage} worked:\n{tail(home)}"
        time.sleep(0.003)
    os.killpg(process.pid or 0, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not list((home / "keys" / stage).glob("*.json")), f"{stage} was finished before the kill reached it"


def tail(home: Path) -> str:
    return "\n".join((home / "output.log").read_text(errors="replace").splitlines()[-30:])


def digests(home: Path) -> dict[str, Any]:
    environment = os.environ | {"MILL_HOME": str(home)}
    command = [sys.executable, "-m", "modelmill.flows.cli", "show", "--json"]
    shown = json.loads(subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, check=True).stdout)
    return {stage["id"]: stage["digest"] for stage in shown["stages"]}


@pytest.mark.timeout(2400)
def test_a_line_killed_in_every_stage_ends_with_the_same_bytes(prefect_database: None, tmp_path: Path) -> None:
    """Two homes: equal digests of every artifact, checkpoints included."""
    untouched, killed = tmp_path / "untouched", tmp_path / "killed"
    with prefect_api(tmp_path) as api:
        wait_until_healthy(api)
        for stage in STAGES:
            kill_inside(killed, stage)
        for home in (killed, untouched):
            last = start(home)
            last.join()
            assert last.exitcode == 0, tail(home)
    found = digests(killed)
    assert set(found) == set(STAGES) and all(found.values())
    assert found == digests(untouched)
