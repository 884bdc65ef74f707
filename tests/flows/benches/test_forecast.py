"""The bench that scores a forecast runs the stages as they are, from texts to the outcome."""

import json
from pathlib import Path

import pytest

from modelmill.flows.benches.forecast import measure
from modelmill.flows.benches.scaling import forecast_row
from modelmill.flows.benches.tokens import generated_texts
from modelmill.tasks.lm.settings import TrainSettings
from modelmill.tasks.pretrain.config import Config as PretrainConfig
from modelmill.tasks.scaling.config import Config as ScalingConfig
from modelmill.tasks.tokenize.config import Config as TokenizeConfig

SCALING = ScalingConfig(
    budget_flops=5e10,
    sweep_flops=2e10,
    sequence_length=64,
    batch_tokens=128,
    num_sizes=3,
    budget_ratio=1.5,
    size_ratio=2.0,
    tokens_per_parameter=0.1,
    learning_rates=(4e-3, 8e-3, 1.6e-2),
    validation_tokens_per_domain=1024,
    bootstrap_copies=20,
)
PRETRAIN = PretrainConfig(decay_share=SCALING.decay_share, train=TrainSettings(num_pieces=1, num_threads=1))


def test_forecast_and_outcome_come_from_one_line(tmp_path: Path) -> None:
    for domain, seed in (("one", 0), ("two", 1)):
        lines = (json.dumps({"text": text}) for text in generated_texts(60_000, seed))
        (tmp_path / f"{domain}_words.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = measure(tmp_path, tmp_path / "home", TokenizeConfig(vocab_size=512), SCALING, PRETRAIN)
    assert found["error"] == pytest.approx(found["measured"] / found["forecast"] - 1)
    assert found["compute_of_largest_proxy"] > 8
    assert set(found["seconds"]) == {"tokenize", "scaling", "pretrain"}
    assert (tmp_path / "home" / "forecast.svg").stat().st_size > 1000
    assert measure(tmp_path, tmp_path / "home", TokenizeConfig(vocab_size=512), SCALING, PRETRAIN) == found
    row = forecast_row(found).quality
    assert row["lowest"] < row["forecast"] < row["highest"]
    assert (row["measured"], row["run_seconds"]) == (found["measured"], found["seconds"]["pretrain"])
