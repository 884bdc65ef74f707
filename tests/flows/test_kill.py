"""A line killed inside each stage in turn, and run again → the same bytes as a line that nobody touched."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from modelmill.services.prefect_server import prefect_api, wait_until_healthy
from modelmill.tasks.catalog import STAGES
from tests.flows.forked import import_before, start_mill
from tests.homes import open_to_others

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


def start(home: Path, *arguments: str) -> BaseProcess:
    """`mill run tiny` in a session of its own."""
    log, environment = log_of(home), {"MILL_HOME": str(home), "PREFECT_HOME": str(home / "prefect")}
    return start_mill(ROOT, ["run", "tiny", "--compute", "process", *arguments], environment, log, log)


def kill_inside(home: Path, stage: str, before: str) -> None:
    """Continue the line with the stage `before` until `stage` works, then kill it and all that it started."""
    process = start(home, "--from", before, "--to", stage)
    pattern = UNDER_WAY.get(stage, "identity.json")
    while not list(home.glob(f"work/{stage}-*/{pattern}")):
        assert process.is_alive(), f"the line ended before {stage} worked:\n{tail(home)}"
        time.sleep(0.003)
    os.killpg(process.pid or 0, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not list((home / "keys" / stage).glob("*.json")), f"{stage} was finished before the kill reached it"


def log_of(home: Path) -> Path:
    return home.with_suffix(".log")


def tail(home: Path) -> str:
    return "\n".join(log_of(home).read_text(errors="replace").splitlines()[-30:])


def digests(home: Path) -> dict[str, Any]:
    environment = os.environ | {"MILL_HOME": str(home)}
    command = [sys.executable, "-m", "modelmill.flows.cli", "show", "--json"]
    shown = json.loads(subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, check=True).stdout)
    return {stage["id"]: stage["digest"] for stage in shown["stages"]}


@pytest.mark.timeout(2400)
def test_a_line_killed_in_every_stage_ends_with_the_same_bytes(prefect_database: None, tmp_path: Path) -> None:
    """Two homes: equal digests of every artifact, checkpoints included."""
    import_before("transformers", "datasets", "vllm.entrypoints.llm", "vllm.v1.engine.llm_engine")
    untouched, killed = tmp_path / "untouched", tmp_path / "killed"
    with prefect_api(tmp_path) as api:
        wait_until_healthy(api)
        # Each run continues the stage in which the last one was killed.
        for before, stage in pairwise(["ingest", *STAGES]):
            kill_inside(killed, stage, before)
        for home in (killed, untouched):
            last = start(home)
            last.join()
            assert last.exitcode == 0, tail(home)
    found = digests(killed)
    assert set(found) == set(STAGES) and all(found.values())
    assert found == digests(untouched)
    assert open_to_others(untouched) == []
