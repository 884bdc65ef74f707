"""Calls on several Ray workers at once: processes meet, and a lost one restarts all. (Training: test_elastic.)"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from modelmill.services.compute import Compute, ComputeConfig, RecordedPool
from modelmill.tasks.errors import ResourceError
from modelmill.tasks.journal import Journal, read_events
from modelmill.tasks.lm.parallel.layout import Layout
from modelmill.tasks.lm.parallel.ranks import open_ranks

LAYOUT = Layout(data_shard=2)


@pytest.fixture(scope="module")
def compute(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compute]:
    compute = Compute(ComputeConfig(workers=2, device="cpu", layout=LAYOUT), tmp_path_factory.mktemp("home"))
    compute.start()
    yield compute
    compute.stop()


def summed_ranks(folder: Path, layout: Layout) -> float:
    """Rank 1 dies at its first call, while rank 0 waits for it."""
    marker = folder / "died"
    if os.environ["RANK"] == "1" and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    with open_ranks(layout) as ranks:
        total = torch.tensor(float(ranks.rank + 1))
        dist.all_reduce(total)
    return total.item()


def test_a_lost_member_restarts_the_gang_whose_processes_meet(compute: Compute, tmp_path: Path) -> None:
    pool = compute.pool(tmp_path / "work", Journal(tmp_path / "work" / "journal.jsonl"))
    assert pool.run(summed_ranks, {"folder": tmp_path}, "sum", LAYOUT) == 3
    events, _ = read_events(tmp_path / "work" / "journal.jsonl", 0)
    assert sum("sum: worker lost (1 of 10), repeated" in event.get("text", "") for event in events) == 1


def test_a_gang_larger_than_the_machine_is_refused(compute: Compute, tmp_path: Path) -> None:
    pool = compute.pool(tmp_path / "work", Journal(tmp_path / "work" / "journal.jsonl"))
    with pytest.raises(ResourceError, match="3 processes, each with"):
        pool.run(summed_ranks, {"folder": tmp_path}, "sum", Layout(data_shard=3))


def test_one_process_cannot_hold_a_layout_of_two(pool: RecordedPool, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="set backend: ray"):
        pool.run(summed_ranks, {"folder": tmp_path}, "sum", LAYOUT)
