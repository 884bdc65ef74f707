import json
from pathlib import Path

import pytest
from pydantic import ValidationError
from transformers import AutoModelForCausalLM

from modelmill.tasks.errors import RecipeError
from modelmill.tasks.files import file_digest, read_json
from modelmill.tasks.lm.data import open_tokens
from modelmill.tasks.lm.model import read_shape
from modelmill.tasks.lm.presets import SHAPES
from modelmill.tasks.pretrain.config import Config, ShapeOverride
from modelmill.tasks.pretrain.resolve import resolve
from tests.tasks.lm.tiny_stages import CHOICE, artifact, run_stage, write_fit


def test_pretrain_takes_the_fit_s_choice_and_scores_its_forecast(tokens_folder: Path, tmp_path: Path) -> None:
    inputs = [artifact("tokens", tokens_folder), write_fit(tmp_path / "fit")]
    checkpoint, result = run_stage("pretrain", {}, inputs, tmp_path / "first")
    training = read_json(checkpoint.path / "training.json")
    assert training["tokens_seen"] == 5120
    assert training["learning_rate"] == 1e-2
    assert training["validation_loss"] < training["validation_loss_before"]
    assert training["stable_loss"] == training["validation_loss"]
    assert training["stable_loss"] != training["decayed_loss"] < training["validation_loss_before"]
    assert training["forecast_error"] == pytest.approx(training["decayed_loss"] / 5.0 - 1)
    assert result.metrics["forecast"] == 5.0
    curve = [json.loads(line) for line in (checkpoint.path / "curve.jsonl").read_text().splitlines()]
    assert [line["step"] for line in curve if "loss" in line] == [10, 16, 20]
    model = AutoModelForCausalLM.from_pretrained(checkpoint.path / "model")
    assert model.config.hidden_size == 32
    assert (checkpoint.path / "model" / "tokenizer.json").is_file()
    again, _ = run_stage("pretrain", {"train": {"num_pieces": 2, "num_threads": 1}}, inputs, tmp_path / "again")
    for file in ("model/model.safetensors", "optimizer.safetensors", "training.json", "curve.jsonl"):
        assert file_digest(again.path / file) == file_digest(checkpoint.path / file)


def test_the_recipe_overrides_the_fit_and_then_there_is_no_forecast(tokens_folder: Path) -> None:
    tokens = open_tokens(tokens_folder)
    resolved = resolve(Config(learning_rate=3e-3), CHOICE, tokens)
    assert resolved.plan.schedule.learning_rate == 3e-3
    assert resolved.reasons["learning_rate"] == "0.003 (recipe)"
    assert resolved.reasons["hidden_size"] == "32 (fit)"
    assert resolved.predicted_loss is None
    assert resolve(Config(), CHOICE, tokens).predicted_loss == 5.0
    assert resolve(Config(decay_share=0.1), CHOICE, tokens).branch_share is None


def test_the_mixture_of_the_fit_is_taken_where_the_recipe_says_so(tokens_folder: Path) -> None:
    tokens = open_tokens(tokens_folder)
    own = tokens.shards("train").mixture
    first = next(iter(own))
    found = CHOICE | {"mixture": {domain: 0.9 if domain == first else 0.1 for domain in own}}
    resolved = resolve(Config(mixture="fit"), found, tokens)
    assert resolved.mixture == found["mixture"]
    assert resolved.predicted_loss == 5.0
    assert resolve(Config(), found, tokens).predicted_loss is None, "the law was measured on another mixture"
    assert resolve(Config(), CHOICE | {"mixture": own}, tokens).predicted_loss == 5.0
    with pytest.raises(RecipeError, match=r"set scaling\.mixtures"):
        resolve(Config(mixture="fit"), CHOICE, tokens)


EXPERTS = {"num_routed": 4, "num_shared": 1, "top_k": 2, "intermediate_size": 16}
SIZES = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "num_kv_heads": 2, "intermediate_size": 48, "head_dim": 24}


def test_a_mixture_of_experts_trains_while_lengths_bases_and_mixture_change(
    tokens_folder: Path, tmp_path: Path
) -> None:
    inputs = [artifact("tokens", tokens_folder), write_fit(tmp_path / "fit")]
    config = {
        "shape": SIZES | {"experts": EXPERTS},
        "phases": [{"tokens": 4096}, {"tokens": 1024, "shape": "sqrt", "final_rate": 1e-3}],
        "schedule": "phases",
        "warmup_steps": 2,
        "sequence_ramp": [[2048, 32], [3072, 64]],
        "batch_ramp": [[1024, 512]],
        "rope_ramp": [[2048, 4e4]],
        "mixture_ramp": [[4096, {"counts": 1.0}]],
    }
    checkpoint, result = run_stage("pretrain", config, inputs, tmp_path / "run")
    training, shape = read_json(checkpoint.path / "training.json"), read_shape(checkpoint.path / "model")
    assert (shape.family, shape.head_size, shape.rope_theta, shape.max_sequence_length) == ("dots1", 24, 4e4, 64)
    assert training["active_parameters"] < training["parameters"]
    assert "a mixture of experts" in result.summary
    assert training["learning_rate"] == pytest.approx(1e-3)
    assert training["steps"] == 4 + 2 + 2 + 4
    assert training["validation_loss"] < training["validation_loss_before"]
    assert "forecast" not in training
    assert training["epochs"]["counts"] > 0


def test_a_preset_gives_every_size_but_the_vocabulary(tokens_folder: Path) -> None:
    tokens = open_tokens(tokens_folder)
    shape = resolve(Config(shape=ShapeOverride(preset="dots.llm1", num_layers=2)), CHOICE, tokens).shape
    assert (shape.hidden_size, shape.num_layers, shape.vocab_size) == (4096, 2, 384)
    assert shape.experts == SHAPES["dots.llm1"].experts
    assert (shape.rope_theta, shape.tie_embeddings, shape.max_sequence_length) == (1e7, False, 64)
    with pytest.raises(ValidationError, match="expected one of llama"):
        ShapeOverride(preset="llama")
    with pytest.raises(ValidationError, match="expected all sizes, or a preset"):
        ShapeOverride(hidden_size=32)


def test_what_cannot_be_resolved_is_refused(tokens_folder: Path) -> None:
    tokens = open_tokens(tokens_folder)
    with pytest.raises(RecipeError, match=r"pretrain\.learning_rate is not set"):
        resolve(Config(), {key: value for key, value in CHOICE.items() if key != "learning_rate"}, tokens)
    with pytest.raises(RecipeError, match="shorten one of them"):
        resolve(Config(total_tokens=256), CHOICE, tokens)
