import json
import shutil
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from modelmill.tasks.errors import RecipeError
from modelmill.tasks.files import read_json
from modelmill.tasks.lm.checkpoints import average_weights, snapshots
from modelmill.tasks.tokenize.train import TEMPLATE
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
    for name, tensor in average_weights(files):
        assert torch.equal(kept[name], tensor)


def test_phases_have_their_own_rate_and_mixture_and_instructions_are_trained(
    tokens_folder: Path, tmp_path: Path, base
) -> None:
    phases = [
        {"total_tokens": 1280, "final_rate": 1e-3, "mixture": {"prose": 1.0}},
        {"total_tokens": 1280, "final_rate": 1e-4, "mixture": {"counts": 1.0}},
    ]
    values = {key: value for key, value in CONFIG.items() if key not in ("total_tokens", "mixture")}
    values |= {"phases": phases, "instruction_share": 0.25, "instructions": {"number": 40}, "sequence_length": 256}
    folder = tokens_with_chat_template(tokens_folder, tmp_path / "tokens")
    checkpoint, _ = run_stage("anneal", values, [artifact("tokens", folder), base], tmp_path)
    training = read_json(checkpoint.path / "training.json")
    assert training["epochs"].keys() == {"prose", "counts", "instructions"}
    assert training["learning_rate"] == pytest.approx(1e-4)
    rates = [
        float(line.split('"learning_rate": ')[1].split(",")[0]) for line in lines(checkpoint.path) if '"loss"' in line
    ]
    assert rates[:5] == pytest.approx([1e-2 - 9e-3 * (0.1 + 0.2 * step) for step in range(5)])
    assert rates[5:] == pytest.approx([1e-3 - 9e-4 * (0.1 + 0.2 * step) for step in range(5)])
    assert training["averaged_checkpoints"] == 2  # one and a half steps of the last phase
    with pytest.raises(RecipeError, match="instructions"):
        run_stage("anneal", values | {"max_epochs": 0.01}, [artifact("tokens", folder), base], tmp_path / "limit")
    with pytest.raises(ValidationError, match="one of the two"):
        run_stage("anneal", values | {"total_tokens": 10}, [], tmp_path)


def tokens_with_chat_template(tokens_folder: Path, folder: Path) -> Path:
    """The same tokens with the template that the tokenize stage ships."""
    shutil.copytree(tokens_folder, folder)
    path = folder / "tokenizer" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": TEMPLATE.read_text()}))
    return folder


def lines(folder: Path) -> list[str]:
    return (folder / "curve.jsonl").read_text().splitlines()
