from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from modelmill.tasks.errors import ContractError, GateError, RecipeError
from modelmill.tasks.extend.config import Config, Gates
from modelmill.tasks.extend.gates import check_gates, difference_error, enforce
from modelmill.tasks.extend.steps import step_plan
from modelmill.tasks.files import read_json
from modelmill.tasks.lm.evaluate import WindowScores
from modelmill.tasks.lm.model import read_shape
from modelmill.tasks.lm.shape import RopeScaling
from tests.tasks.lm.tiny_stages import artifact, pretrained, run_stage

NEEDLES = {"sentence": "{key} is {value}.", "keys": ["red", "oven", "mill", "stone"], "num_digits": 2}
STEPS = [
    {"sequence_length": 128, "rope_theta": 4e4, "total_tokens": 2048, "knots": {"share": 0.8}},
    {
        "sequence_length": 256,
        "rope_scaling": {"kind": "llama3", "factor": 4, "original_length": 64},
        "total_tokens": 2048,
    },
]


def config(**changes) -> dict:
    gates = {"on_failure": "waive", "num_samples": 2, "ruler_samples": 1, "depths": [0.0, 1.0]}
    values = {"steps": STEPS, "needles": NEEDLES, "gates": gates, "validation_tokens_per_domain": 512}
    return values | {"learning_rate": 2e-3} | changes


def test_context_grows_in_steps_and_failed_gates_are_recorded(tokens_folder: Path, tmp_path: Path) -> None:
    inputs = [artifact("tokens", tokens_folder), pretrained(tokens_folder, tmp_path / "base")]
    checkpoint, result = run_stage("extend", config(), inputs, tmp_path / "extend")
    shape, training = read_shape(checkpoint.path / "model"), read_json(checkpoint.path / "training.json")
    assert (shape.max_sequence_length, shape.rope_theta) == (256, 1e4)
    assert shape.rope_scaling == RopeScaling(kind="llama3", factor=4, original_length=64)
    assert training["tokens_seen"] == 2560 + 4096
    assert training["validation_loss"] < training["validation_loss_before"]
    gates = read_json(checkpoint.path / "gates.json")
    assert [step["sequence_length"] for step in gates["steps"]] == [128, 256]
    assert [step["rope"]["rope_theta"] for step in gates["steps"]] == [4e4, 1e4]
    assert training["epochs"] == {
        domain: sum(step["epochs"][domain] for step in gates["steps"]) for domain in ("prose", "counts")
    }
    measured = [gates["before"]["needle"], *(step["needle"]["grid"] for step in gates["steps"])]
    assert [len(cells) for cells in measured] == [6, 4, 6]
    assert gates["waivers"] == result.waivers
    assert any("needle at 256 tokens" in waiver for waiver in result.waivers)
    assert result.summary.count("| after 256 |") == 6
    assert "common_words" in result.summary
    assert (checkpoint.path / "report" / "needle.svg").stat().st_size > 1000
    with pytest.raises(ContractError, match="already has a context of 256"):
        run_stage("extend", config(), [inputs[0], checkpoint], tmp_path / "twice")
    with pytest.raises(RecipeError, match=r"max_epochs = 0\.01"):
        run_stage("extend", config(max_epochs=0.01), inputs, tmp_path / "limit")


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


def test_the_tolerance_is_the_noise_of_the_windows_or_a_share() -> None:
    generator = np.random.default_rng(0)
    sizes, bits = generator.integers(200, 400, 500), generator.normal(600, 60, 500)
    before = {"windows": WindowScores(bits, sizes)}
    noisy = WindowScores(bits + generator.normal(0, 30, 500), sizes)
    error = difference_error(before["windows"], noisy)
    assert error == pytest.approx(30 / 500**0.5 / 300, rel=0.15)
    cells = {"needle": [{"accuracy": 1.0}, {"accuracy": 0.5}], "ruler": []}
    found = check_gates(
        before, {"windows": noisy, **cells}, Gates(short_tolerance="noise"), short_before=2.0, short_after=2.005
    )
    assert found["short"]["limit"] == 2.0 + 2 * error
    assert found["short"]["passed"] is (2.0 + 2 * error >= 2.005)
    assert found["needle"] | {"grid": []} == {"accuracy": 0.75, "limit": 1.0, "passed": False, "grid": []}
    share = check_gates(before, cells, Gates(short_tolerance=0.0), short_before=2.0, short_after=2.001)
    assert (share["short"]["limit"], share["short"]["passed"]) == (2.0, False)


def test_lengths_must_rise() -> None:
    with pytest.raises(ValidationError, match="each longer than the one before"):
        Config(**config(steps=STEPS[::-1]))


def test_a_step_may_end_in_a_decay() -> None:
    settings = Config.model_validate(config(decay_share=0.5, warmup_share=0.0, batch_tokens=128))
    plan = step_plan(settings, settings.steps[0], 2e-3)
    rates = [plan.at(tokens).learning_rate for tokens in (0, 1024, 1536, 1920)]
    assert rates == pytest.approx([2e-3, 2e-3, 1e-3, 2.5e-4])
    settings = Config.model_validate(config(batch_tokens=128))
    assert step_plan(settings, settings.steps[0], 2e-3).at(1920).learning_rate == 2e-3
