"""A line killed inside each stage in turn, and run again → the same bytes as a line that nobody touched."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from modelmill.tasks.catalog import STAGES
from tests.flows.tiny import Stack

ROOT = Path(__file__).resolve().parents[2]
# What shows that a stage is in the middle of its work, below its workspace; it is killed as soon as that is there.
UNDER_WAY = {
    "ingest": "done/*/*.json",
    "scaling": "done/*/*.json",
    "pretrain": "**/states/*",
    "extend": "**/states/*",
    "anneal": "**/states/*",
    "align": "records/*.json",
    "evaluate": "measured/*/*.json",
}


def start(home: Path, prefect: str, *arguments: str) -> subprocess.Popen[bytes]:
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PREFECT_HOME", "PREFECT_LOCAL_STORAGE_PATH")
    }
    environment |= {"MILL_HOME": str(home), "PREFECT_API_URL": prefect}
    home.mkdir(exist_ok=True)
    with (home / "output.log").open("ab") as log:
        command = [sys.executable, "-m", "modelmill.flows.cli", "run", "tiny", "--compute", "process", *arguments]
        return subprocess.Popen(
            command, env=environment, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )


def kill_inside(home: Path, prefect: str, stage: str) -> None:
    """Run the line until `stage` works, then kill it and all that it started."""
    process = start(home, prefect, "--to", stage)
    pattern = UNDER_WAY.get(stage, "identity.json")
    while not list(home.glob(f"work/{stage}-*/{pattern}")):
        assert process.poll() is None, f"the line ended before {stage} worked:\n{tail(home)}"
        time.sleep(0.003)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not list((home / "keys" / stage).glob("*.json")), f"{stage} was finished before the kill reached it"


def tail(home: Path) -> str:
    return "\n".join((home / "output.log").read_text(errors="replace").splitlines()[-30:])


def digests(home: Path) -> dict[str, Any]:
    environment = os.environ | {"MILL_HOME": str(home)}
    command = [sys.executable, "-m", "modelmill.flows.cli", "show", "--json"]
    shown = json.loads(subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, check=True).stdout)
    return {stage["id"]: stage["digest"] for stage in shown["stages"]}


@pytest.mark.timeout(900)
def test_a_line_killed_in_every_stage_ends_with_the_same_bytes(stack: Stack, tmp_path: Path) -> None:
    """Two homes, side by side: equal digests of every artifact, checkpoints included."""
    untouched, killed = tmp_path / "untouched", tmp_path / "killed"
    quiet = start(untouched, stack.api)
    try:
        for stage in STAGES:
            kill_inside(killed, stack.api, stage)
        last = start(killed, stack.api)
        assert last.wait() == 0, tail(killed)
        assert quiet.wait() == 0, tail(untouched)
    finally:
        quiet.kill()
    found = digests(killed)
    assert set(found) == set(STAGES) and all(found.values())
    assert found == digests(untouched)
