from pathlib import Path

import pytest

from modelmill.tasks.files import read_json, write_json
from modelmill.tasks.lm.launch import main
from tests.tasks.lm.tiny_stages import CHOICE

SIZES = ("hidden_size", "num_layers", "num_heads", "num_kv_heads", "intermediate_size")
PLAN = ("learning_rate", "batch_tokens", "sequence_length", "warmup_tokens", "validation_tokens_per_domain")


def test_pretrain_from_the_command_line_needs_no_fit_and_says_what_is_missing(
    tokens_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {name: CHOICE[name] for name in PLAN} | {"total_tokens": 2560, "forecast_branch": False}
    write_json(tmp_path / "pretrain.json", config | {"shape": {name: CHOICE[name] for name in SIZES}})
    folders = {"tokens": tokens_folder, "config": tmp_path / "pretrain.json", "workspace": tmp_path / "work"}
    arguments = [f"--{name}={path}" for name, path in (folders | {"output": tmp_path / "out"}).items()]
    assert main([*arguments, "--device=cpu"]) == 0
    assert "step 10: tokens 2560, loss " in capsys.readouterr().out
    assert read_json(tmp_path / "out" / "training.json")["tokens_seen"] == 2560
    assert main([*arguments, "--device=cpu", '--layout={"data_shard": 2}']) == 6
    assert "start them with torchrun" in capsys.readouterr().err
