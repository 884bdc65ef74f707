import os
import subprocess
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import HashStore, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from modelmill.tasks.lm.parallel.rendezvous import served_store
from modelmill.tasks.lm.watchdog import EXIT_CODE, Beat, Watchdog, end_process, open_watchdog
from modelmill.tasks.loopback import stay_on_loopback

STALL = 3


def main(rank: int, folder: Path, sleeper: int) -> None:
    """A run of two processes that share a number each step; one of them falls asleep in its third step."""
    stay_on_loopback()
    store = TCPStore("127.0.0.1", int((folder / "port").read_text()), 3, timeout=timedelta(seconds=60))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    with open_watchdog(2.0) as watchdog:
        for step in range(100):
            watchdog.beat(step, patient=step == 0)
            if step == STALL and rank == sleeper:
                time.sleep(300)
            dist.all_reduce(torch.ones(1))


def test_the_rank_that_sleeps_is_named_and_the_run_ends(tmp_path: Path) -> None:
    # A store of its own process, as torchrun's: it outlives the first rank that leaves
    store = served_store("127.0.0.1", 0, 3)
    (tmp_path / "port").write_text(str(store.port))
    command = [sys.executable, "-W", "ignore", "-m", "tests.tasks.lm.test_watchdog"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([*command, str(rank), str(tmp_path), "1"], stderr=subprocess.PIPE, text=True, env=environment)
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=90)[1] for process in processes]
    assert EXIT_CODE in [process.returncode for process in processes]
    named = [error for error in errors if "Modelmill" in error]
    assert named
    for error in named:
        assert "rank 1 of 2 did not get on from step 3 (step)" in error
        assert "test_watchdog.py" in error


def judged(beats: list[Beat], seconds: float, **second: Beat) -> str | None:
    """What is said of beats that come again with a new pulse after so many seconds."""
    watchdog = Watchdog(HashStore(), 0, len(beats), 40, end_process)
    assert watchdog.judge(beats, 0.0) is None
    later = [second.get(f"rank{beat.rank}", replace(beat, pulse=1)) for beat in beats]
    return watchdog.judge(later, seconds)


def test_who_is_blamed() -> None:
    working = Beat(0, 7, "step", patient=False, waits=True, where="a collective")
    slow = Beat(1, 7, "step", patient=False, where="data.py:57 batch")
    assert judged([working, slow], 30) is None
    assert judged([working, slow], 50) == (
        "rank 1 of 2 did not get on from step 7 (step) for more than 40 s, in data.py:57 batch; 1 other(s) wait"
    )
    assert judged([working, replace(slow, step=6, waits=True)], 50, rank0=replace(working, step=8, pulse=1)) is not None
    assert judged([working, replace(slow, patient=True, phase="validate")], 500) is None
    # One that came to the step later has its own time: who only waits for it is not blamed meanwhile.
    assert judged([working, replace(slow, step=6)], 50, rank1=replace(slow, pulse=1)) is None
    frozen = judged([working, slow], 50, rank1=slow)
    assert frozen is not None
    assert frozen.startswith("rank 1 of 2 fell silent (last at step 7")
    moved = {"rank0": replace(working, step=8, pulse=1), "rank1": replace(slow, step=8, pulse=1)}
    assert judged([working, slow], 50, **moved) is None


def test_a_slow_run_gets_more_time() -> None:
    watchdog = Watchdog(HashStore(), 0, 1, 1.0, end_process)
    watchdog.longest = 30.0
    beat = Beat(0, 3, "step", patient=False)
    assert watchdog.judge([beat], 0.0) is None
    assert watchdog.judge([replace(beat, pulse=1)], 100.0) is None
    assert watchdog.judge([replace(beat, pulse=2)], 151.0) is not None


def test_a_step_that_compiles_takes_what_it_likes_and_the_time_counts_from_its_end() -> None:
    watchdog = Watchdog(HashStore(), 0, 1, 40, end_process)
    watchdog.beat(3)
    heard: list[Beat] = []

    def compiler(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        watchdog._write()  # pyright: ignore[reportPrivateUsage]
        heard.append(watchdog._read(0))  # pyright: ignore[reportPrivateUsage]
        return graph.forward

    torch.compile(torch.sin, backend=compiler)(torch.ones(1))
    watchdog._write()  # pyright: ignore[reportPrivateUsage]
    heard.append(watchdog._read(0))  # pyright: ignore[reportPrivateUsage]
    assert [beat.patient for beat in heard] == [True, False]
    assert watchdog.judge(heard[:1], 0.0) is None
    assert watchdog.judge([replace(heard[0], pulse=3)], 200.0) is None
    assert watchdog.judge([replace(heard[1], pulse=4)], 230.0) is None
    assert watchdog.judge([replace(heard[1], pulse=5)], 241.0) is not None


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
