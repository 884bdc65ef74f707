from pathlib import Path

import pytest
from pydantic import ValidationError

from modelmill.tasks.errors import ContractError, GateError
from modelmill.tasks.extend.config import Config, Gates
from modelmill.tasks.extend.gates import enforce
from modelmill.tasks.files import read_json
from modelmill.tasks.lm.model import read_shape
from tests.tasks.lm.tiny_stages import artifact, pretrained, run_stage

NEEDLES = {"sentence": "{key} is {value}.", "keys": ["red", "oven"], "num_digits": 2}
STEPS = [
    {"sequence_length": 128, "rope_theta": 4e4, "total_tokens": 2048},
    {"sequence_length": 256, "rope_theta": 2e5, "total_tokens": 2048},
]


def config(**changes) -> dict:
    gates = {"on_failure": "waive", "num_samples": 2, "depths": [0.0, 1.0]}
    values = {"steps": STEPS, "needles": NEEDLES, "gates": gates, "validation_tokens_per_domain": 512}
    return values | {"learning_rate": 2e-3} | changes


def test_context_grows_in_steps_and_failed_gates_are_recorded(tokens_folder: Path, tmp_path: Path) -> None:
    inputs = [artifact("tokens", tokens_folder), pretrained(tokens_folder, tmp_path / "base")]
    checkpoint, result = run_stage("extend", config(), inputs, tmp_path / "extend")
    shape, training = read_shape(checkpoint.path / "model"), read_json(checkpoint.path / "training.json")
    assert (shape.max_sequence_length, shape.rope_theta) == (256, 2e5)
    assert training["tokens_seen"] == 2560 + 4096
    assert training["validation_loss"] < training["validation_loss_before"]
    gates = read_json(checkpoint.path / "gates.json")
    assert [step["sequence_length"] for step in gates["steps"]] == [128, 256]
    assert gates["waivers"] == result.waivers
    assert any("needle at 256 tokens" in waiver for waiver in result.waivers)
    with pytest.raises(ContractError, match="already has a context of 256"):
        run_stage("extend", config(), [inputs[0], checkpoint], tmp_path / "twice")


def test_a_failed_gate_stops_the_line_unless_waived() -> None:
    outcome = {
        "sequence_length": 128,
        "short": {"bits_per_byte_before": 2.0, "bits_per_byte": 2.1, "limit": 2.02, "passed": False},
        "needle": {"accuracy": 0.95, "limit": 0.9, "passed": True},
    }
    with pytest.raises(GateError, match=r"2\.1000 bits per byte, at most 2\.0200"):
        enforce(outcome, Gates())
    assert enforce(outcome, Gates(on_failure="waive"))[0].startswith("gate waived: short text at 128 tokens")
    outcome["short"]["passed"] = True
    assert enforce(outcome, Gates()) == []


def test_lengths_must_rise() -> None:
    with pytest.raises(ValidationError, match="each longer than the one before"):
        Config(**config(steps=STEPS[::-1]))
