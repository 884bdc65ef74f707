import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.state_dict_loader import load

from modelmill.tasks.lm.checkpoints import weights
from modelmill.tasks.lm.engine import train
from modelmill.tasks.lm.model import build_model
from modelmill.tasks.lm.optim import build_optimizer
from modelmill.tasks.lm.settings import ExpertBalance, TrainSettings
from tests.tasks.lm.pipeline.program import ADAM, CASES, CLIP, PLAN, SHAPES, Documents


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What four gloo processes left after all cases."""
    folder = tmp_path_factory.mktemp("pipeline")
    command = [sys.executable, "-m", "tests.tasks.lm.pipeline.program", str(folder)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def alone() -> dict[str, tuple[Any, dict[str, torch.Tensor]]]:
    """The curve and the weights that the engine makes of the same batches in one process."""
    found = {}
    for name, shape in SHAPES.items():
        model = build_model(shape, seed=1)
        optimizer = build_optimizer(model, ADAM)
        # A pipeline knows of no balance between experts.
        settings = TrainSettings(log_every_steps=1, balance=ExpertBalance(bias_rate=0, sequence_loss=0))
        report = train(model, optimizer, PLAN, Documents(), settings, clip_norm=CLIP)
        found[name] = (report.curve, weights(model))
    return found


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_pipeline_trains_as_one_process_does(case: Any, folder: Path, alone: Any) -> None:
    curve, expected = alone[case.shape]
    for rank in range(case.layout.num_processes):
        result = json.loads((folder / f"{rank}.json").read_text())[case.name]
        assert result["losses"] == pytest.approx([line["loss"] for line in curve], rel=1e-5)
        assert result["norms"] == pytest.approx([line["grad_norm"] for line in curve], rel=1e-4)
    assert curve[0]["grad_norm"] > CLIP
    opened = weights(build_model(SHAPES[case.shape], seed=2))
    load(opened, checkpoint_id=folder / case.name, no_dist=True)
    for name, tensor in expected.items():
        torch.testing.assert_close(opened[name], tensor, rtol=0, atol=1e-5)
