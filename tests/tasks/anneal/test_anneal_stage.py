from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modelmill.tasks.files import read_json
from modelmill.tasks.lm.checkpoints import average_weights, snapshots
from tests.tasks.lm.tiny_stages import artifact, pretrained, run_stage

CONFIG = {
    "total_tokens": 2560,
    "batch_tokens": 256,
    "learning_rate": 1e-2,
    "mixture": {"prose": 0.9, "counts": 0.1},
    "average_checkpoints": 3,
    "average_share": 0.3,
    "validation_tokens_per_domain": 512,
    "train": {"log_every_steps": 1},
}


@pytest.fixture(scope="module")
def base(tokens_folder: Path, tmp_path_factory: pytest.TempPathFactory):
    return pretrained(tokens_folder, tmp_path_factory.mktemp("base"))


def test_the_rate_falls_to_zero_and_the_better_weights_are_kept(tokens_folder: Path, tmp_path: Path, base) -> None:
    inputs = [artifact("tokens", tokens_folder), base]
    checkpoint, result = run_stage("anneal", CONFIG, inputs, tmp_path)
    training = read_json(checkpoint.path / "training.json")
    assert training["validation_loss"] < training["validation_loss_before"]
    assert training["validation_loss"] == min(training["last_loss"], training["average_loss"])
    assert training["averaged_checkpoints"] == 3
    assert training["learning_rate"] == 0
    assert training["kept"] in result.summary
    rates = [line.split('"learning_rate": ')[1].split(",")[0] for line in lines(checkpoint.path) if '"loss"' in line]
    assert [float(rate) for rate in rates] == pytest.approx([1e-2 * (0.95 - 0.1 * step) for step in range(10)])


def test_the_average_is_that_of_the_last_snapshots(tokens_folder: Path, tmp_path: Path, base) -> None:
    inputs = [artifact("tokens", tokens_folder), base]
    checkpoint, _ = run_stage("anneal", CONFIG | {"keep": "average"}, inputs, tmp_path)
    files = snapshots(tmp_path / "workspace" / "anneal" / "snapshots")[-3:]
    assert [file.stem for file in files] == ["weights-000000008", "weights-000000009", "weights-000000010"]
    kept = load_file(checkpoint.path / "model" / "model.safetensors")
    for name, tensor in average_weights(files).items():
        assert torch.equal(kept[name], tensor)


def lines(folder: Path) -> list[str]:
    return (folder / "curve.jsonl").read_text().splitlines()
