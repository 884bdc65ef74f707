import math
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor

from modelmill.tasks.errors import MillError
from modelmill.tasks.journal import Journal
from modelmill.tasks.lm.checkpoints import weights
from modelmill.tasks.lm.data import Batch, RowBatches, document_mixture, open_tokens
from modelmill.tasks.lm.engine import train
from modelmill.tasks.lm.losses import summed_loss
from modelmill.tasks.lm.model import build_model
from modelmill.tasks.lm.optim import build_optimizer
from modelmill.tasks.lm.plan import StepPoint
from modelmill.tasks.lm.report import TrainReport
from modelmill.tasks.lm.settings import OptimizerConfig, SpikeConfig, TrainSettings
from modelmill.tasks.lm.spikes import SpikeWatch
from tests.tasks.lm.tiny_run import PLAN, SHAPE

SPIKES = SpikeConfig(min_steps=6, window=6, deviations=2, min_rise=1.0, patience=2)
NOT_A_NUMBER = 383
"""As every label of a batch: the objective below makes its loss no number."""


@dataclass
class Poisoned(RowBatches):
    """Batches of some steps teach one wrong token; those of others have a loss that is no number."""

    folder: Path
    wrong: tuple[int, ...] = ()
    undefined: tuple[int, ...] = ()
    stop_at: int | None = None
    asked: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(document_mixture(open_tokens(self.folder), seed=1))

    def batch(self, point: StepPoint) -> Batch:
        self.asked.append(point.step)
        if point.step == self.stop_at:
            raise KeyboardInterrupt
        batch = super().batch(point)
        for steps, label in ((self.wrong, 300), (self.undefined, NOT_A_NUMBER)):
            if point.step in steps:
                batch = Batch(batch.input_ids, torch.full_like(batch.labels, label), batch.position_ids)
        return batch


def objective(hidden: Tensor, head: Tensor, batch: Batch) -> Tensor:
    return summed_loss(hidden, head, batch) * (math.nan if (batch.labels == NOT_A_NUMBER).all() else 1.0)


def trained(batches: Poisoned, workspace: Path | None, **spikes) -> tuple[dict[str, Tensor], TrainReport]:
    model = build_model(SHAPE, seed=1)
    settings = TrainSettings(
        log_every_steps=1, checkpoint_every_steps=4, spikes=SPIKES.model_copy(update=spikes), keep_checkpoints=3
    )
    optimizer = build_optimizer(model, OptimizerConfig())
    journal = Journal(workspace / "journal.jsonl") if workspace else None
    report = train(model, optimizer, PLAN, batches, settings, workspace=workspace, journal=journal, objective=objective)
    return weights(model), report


def test_a_spike_is_left_out_also_when_the_run_is_killed_behind_it(tokens_folder: Path, tmp_path: Path) -> None:
    poison = Poisoned(tokens_folder, wrong=(10, 11, 12), undefined=(17,))
    expected, report = trained(poison, tmp_path / "whole")
    # 10 and 11 are high, 9 is the batch before; the state of 12 steps is gone, so the run goes back to that of 8
    assert poison.asked == [*range(12), 8, *range(12, 18), 18, 19]
    marks = [line for line in report.curve if "first_skipped" in line]
    assert [(mark["first_skipped"], mark["last_skipped"]) for mark in marks] == [(9, 11), (16, 17)]
    assert marks[0]["spike_loss"] > marks[0]["usual_loss"] + 1
    assert marks[1]["spike_loss"] is None
    trained_steps = [line["step"] for line in report.curve if "loss" in line]
    assert trained_steps == [*range(1, 10), *range(13, 17), 19, 20]
    assert "leaves out the batches of steps 9 to 11" in (tmp_path / "whole" / "journal.jsonl").read_text()

    with pytest.raises(KeyboardInterrupt):
        trained(Poisoned(tokens_folder, poison.wrong, poison.undefined, stop_at=15), tmp_path / "killed")
    again = Poisoned(tokens_folder, poison.wrong, poison.undefined)
    found, resumed = trained(again, tmp_path / "killed")
    assert set(again.asked).isdisjoint({9, 10, 11})
    assert resumed.curve == report.curve
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_too_many_spikes_end_the_run_with_advice(tokens_folder: Path, tmp_path: Path) -> None:
    batches = Poisoned(tokens_folder, undefined=(3, 6))
    with pytest.raises(MillError, match=r"no finite number at step 6 .*went back 1 times.*steps 5 to 6"):
        trained(batches, tmp_path, max_rollbacks=1)
    with pytest.raises(MillError, match="no workspace"):
        trained(batches, None)


def test_noise_a_slow_rise_and_one_high_loss_are_no_spike(tmp_path: Path) -> None:
    watch = SpikeWatch(SpikeConfig(min_steps=16), tmp_path)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(400, generator=generator).tolist()
    losses = [3 - step / 400 + 0.05 * noise[step] for step in range(300)] + [2.3 + step / 400 for step in range(100)]
    losses[200] = 9.0
    assert not any(watch.judge(StepPoint(step, 0, 0.0, 8, 1, 0), loss, 1.0) for step, loss in enumerate(losses))
    copy = SpikeWatch(SpikeConfig(min_steps=16), tmp_path)
    copy.restore(watch.state)
    for watcher in (watch, copy):
        judged = [watcher.judge(StepPoint(400 + step, 0, 0.0, 8, 1, 0), 4.0, 1.0) for step in range(3)]
        assert judged[:2] == [None, None]
        assert judged[2] is not None
        assert (judged[2].first_skipped, judged[2].last_skipped) == (399, 402)
