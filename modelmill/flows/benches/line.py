"""A recipe run in an empty home, then again → seconds and peak memory a stage, overhead and no-op seconds."""

import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from modelmill.tasks.errors import MillError


def bench_line(recipe: str, console: Console) -> dict[str, Any]:
    """Measure a recipe end to end in a home of its own, as a user would run it.

    Returns seconds and peak memory (bytes) per stage; `seconds` is the wall time of the whole command, with the start
    of Python; `share_outside` the part of it that is no stage's work; `noop_seconds` a second run of the same command.

    Raises:
        MillError: a run failed; its last lines are in the message.
    """
    with tempfile.TemporaryDirectory(prefix="mill-bench-") as folder:
        environment = os.environ | {"MILL_HOME": folder}
        console.print(f"running {recipe} in an empty home", highlight=False)
        first, seconds = _timed_run(recipe, environment)
        console.print("running it again", highlight=False)
        second, noop_seconds = _timed_run(recipe, environment)
    inside = sum(stage["seconds"] for stage in first["stages"])
    not_reused = [stage["id"] for stage in second["stages"] if stage["status"] != "reuse"]
    if not_reused:
        raise MillError(f"the second run built {', '.join(not_reused)} again; expected every stage to be reused")
    return {
        "recipe": recipe,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "seconds": round(seconds, 1),
        "share_outside": round(1 - inside / seconds, 3),
        "noop_seconds": round(noop_seconds, 1),
        "peak_memory_bytes": max(stage["peak_memory_bytes"] for stage in first["stages"]),
        "stages": [
            {
                "id": stage["id"],
                "seconds": round(stage["seconds"], 1),
                "peak_memory_bytes": stage["peak_memory_bytes"],
                "in": stage["counts"]["in"],
                "out": stage["counts"]["out"],
                "unit": stage["counts"]["unit"],
            }
            for stage in first["stages"]
        ],
    }


def _timed_run(recipe: str, environment: dict[str, str]) -> tuple[dict[str, Any], float]:
    command = [str(Path(sys.executable).with_name("mill")), "run", recipe, "--json"]
    started = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - started
    if done.returncode:
        raise MillError(f"`mill run {recipe}` ended with code {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout), seconds
