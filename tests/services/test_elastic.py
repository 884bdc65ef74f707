"""Which layouts a run goes on with, and a run on a Ray cluster of two nodes that loses one of them."""

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelmill.services import gang
from modelmill.services.compute import Compute, ComputeConfig
from modelmill.services.elastic import fallback_layouts
from modelmill.services.ray_session import start_cluster
from modelmill.tasks.journal import Journal, read_events
from modelmill.tasks.lm.data import Batch, RowBatches
from modelmill.tasks.lm.parallel.layout import Layout
from modelmill.tasks.lm.plan import StepPoint
from modelmill.tasks.pretrain import stage
from modelmill.tasks.pretrain.stage import train_base
from tests.tasks.lm.tiny_stages import artifact, run_stage, write_fit
from tests.tasks.lm.tiny_tokens import write_tiny_tokens

NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 100_000_000}


def sizes(layout: Layout, min_processes: int | None) -> list[dict[str, int]]:
    return [each.model_dump(exclude_defaults=True) for each in fallback_layouts(layout, min_processes)]


def test_copies_go_before_shards_and_only_divisors_are_taken() -> None:
    assert sizes(Layout(data_replicate=2, data_shard=6, tensor=2), 4) == [
        {"data_replicate": 2, "data_shard": 6, "tensor": 2},
        {"data_shard": 6, "tensor": 2},
        {"data_replicate": 2, "data_shard": 3, "tensor": 2},
        {"data_shard": 3, "tensor": 2},
        {"data_replicate": 2, "data_shard": 2, "tensor": 2},
        {"data_shard": 2, "tensor": 2},
        {"data_replicate": 2, "tensor": 2},
    ]
    assert sizes(Layout(data_shard=4, expert=4), 1)[1:] == [{"data_shard": 2, "expert": 2}, {}]
    assert sizes(Layout(data_shard=4), None) == [{"data_shard": 4}]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A Ray cluster of one node with one core."""
    monkeypatch.setenv("RAY_TMPDIR", "")  # to have it restored
    cluster = start_cluster(tmp_path, **NODE)
    monkeypatch.setenv("RAY_ADDRESS", str(cluster.address))
    yield cluster
    cluster.shutdown()


class WaitingBatches(RowBatches):
    """Process 1 waits within a step, the first time, for its end."""

    marker: Path

    def batch(self, point: StepPoint) -> Batch:
        if point.step == 12 and os.environ["RANK"] == "1" and not self.marker.exists():
            self.marker.touch()
            time.sleep(600)
        return super().batch(point)


def waiting_train_base(workspace: Path, **arguments: Any) -> dict[str, float]:
    WaitingBatches.marker = workspace / "waits"
    stage.RowBatches = WaitingBatches
    return train_base(workspace=workspace, **arguments)


def test_a_run_goes_on_with_fewer_processes_when_a_node_is_lost(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = [artifact("tokens", write_tiny_tokens(tmp_path / "tokens")), write_fit(tmp_path / "fit")]
    # An epsilon far below the rounding of gradients would make whole steps of it.
    config = {"forecast_branch": False, "optimizer": {"eps": 1e-4}}
    config |= {"train": {"log_every_steps": 1, "checkpoint_every_steps": 5}}
    alone, _ = run_stage("pretrain", config, inputs, tmp_path / "alone")

    compute = Compute(ComputeConfig(layout=Layout(data_shard=2), min_processes=1, device="cpu"), tmp_path)
    compute.start()
    second = cluster.add_node(**NODE)
    journal = Journal(tmp_path / "two" / "journal.jsonl")
    pool = compute.pool(tmp_path / "two" / "workspace", journal)
    monkeypatch.setattr(gang, "SECONDS_TO_GROW", 3)
    monkeypatch.setattr(stage, "train_base", waiting_train_base)
    marker = tmp_path / "two" / "workspace" / "pretrain" / "waits"
    ended = threading.Event()
    loss = threading.Thread(target=lose_node, args=(cluster, second, marker, ended))
    loss.start()
    try:
        two, _ = run_stage("pretrain", config, inputs, tmp_path / "two", pool)
        assert pool.run(os.getpid, {}, "one process") != os.getpid(), "all cores of the largest node that is left"
    finally:
        ended.set()
        compute.stop()
        loss.join()
    notes = [event["text"] for event in read_events(journal.path, 0)[0] if event["kind"] == "note"]
    assert "pretrain: worker lost (1 of 10), repeated" in notes
    assert any("no room for the 2 processes of the layout; goes on with 1 ({})" in note for note in notes), notes
    assert {"pretrain: continued from step 5", "pretrain: continued from step 10"} & set(notes), notes
    assert curve(two.path) == [pytest.approx(line, rel=1e-5) for line in curve(alone.path)]


def lose_node(cluster: Any, node: Any, marker: Path, ended: threading.Event) -> None:
    """When a process waits for it, however long the run takes to come there on a busy machine."""
    while not marker.exists():
        if ended.wait(0.05):
            return
    cluster.remove_node(node, allow_graceful=False)


def curve(checkpoint: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (checkpoint / "curve.jsonl").read_text().splitlines()]
