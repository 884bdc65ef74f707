"""Two environments that have little in common → the same bytes: pages of the built-in site, and every data stage."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
YEARS_AHEAD = Path(__file__).parent / "years_ahead"


def surroundings(tmp_path: Path) -> list[dict[str, Any]]:
    """A bare environment on one core, and a rich one, in other folders and years, under another name, on all cores."""
    bare, rich = tmp_path / "bare", tmp_path / "rich" / "deep er"
    for folder in (bare, rich):
        folder.mkdir(parents=True)
    always = {"PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"}
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "POLARS_MAX_THREADS", "NUMBA_NUM_THREADS"), "1")
    told = {
        "USER": "zelda",
        "LOGNAME": "zelda",
        "HOSTNAME": "elsewhere",
        "EDITOR": "vi",
        "HTTP_PROXY": "http://p.test:1",
    }
    shown = {"LC_ALL": "de_DE.UTF-8", "TZ": "Asia/Tokyo", "COLUMNS": "37", "LINES": "7", "TERM": "xterm"}
    return [
        {
            "env": always | one_thread | {"PATH": "/usr/bin:/bin", "HOME": str(bare), "PYTHONHASHSEED": "1"},
            "cwd": bare,
            "umask": 0o077,
        },
        {
            "env": always | told | shown
            | {"PATH": f"{rich}:/usr/local/bin:/usr/bin:/bin", "HOME": str(rich), "TMPDIR": str(rich)}
            | {"PYTHONPATH": f"{YEARS_AHEAD}:{ROOT}"}
            | {"PYTHONHASHSEED": "77", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1"},
            "cwd": "/",
            "umask": 0o000,
        },
    ]  # fmt: skip


def outputs(tmp_path: Path, module: str, *arguments: list[str]) -> list[Any]:
    """What a script prints in each of the surroundings, with arguments of its own in each; side by side."""
    places = surroundings(tmp_path)
    taskset = shutil.which("taskset")
    cores = [[taskset, "-c", str(min(os.sched_getaffinity(0)))] if taskset else [], []]
    processes = []
    for core, place, own in zip(cores, places, arguments, strict=True):
        command = [*core, sys.executable, "-P", "-m", module, *own]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **place))
    answers = []
    for process in processes:
        output, errors = process.communicate(timeout=500)
        assert process.returncode == 0, errors.decode()[-3000:]
        answers.append(json.loads(output))
    return answers


def test_no_page_of_the_site_takes_anything_from_the_process_that_renders_it(tmp_path):
    """Every module of the standard library, and packages of others, rendered in two orders."""
    packages = ["stdlib", "pyarrow"]
    module = "tests.reliability.render_pages"
    first, second = outputs(tmp_path, module, ["1", *packages], ["2", *packages])
    assert len(first) > 250 and len(set(first.values())) > 250
    assert [name for name in first if first[name] != second[name]] == []


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("recipe", "last", "overrides"),
    [
        ("tiny", "tokenize", []),
        ("demo", "ingest", ["ingest.sources.docs.pages=60", "ingest.sources.docs.batch_pages=20"]),
    ],
)
def test_every_data_stage_gives_the_same_bytes_in_other_surroundings(tmp_path, recipe, last, overrides):
    """One worker on one core, and two workers: environment, folders, user, clock, hash seed, terminal and umask differ.

    A minute, and several on a busy machine: the stages start the libraries of a whole line twice.
    """
    module = "tests.reliability.data_line"
    runs = [[recipe, str(tmp_path / f"run-{workers}"), str(workers), last, *overrides] for workers in (1, 2)]
    first, second = outputs(tmp_path, module, *runs)
    assert list(first)[-1] == last
    assert first == second
