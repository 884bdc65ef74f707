import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from modelmill.tasks.errors import RecipeError
from modelmill.tasks.files import file_digest, read_json
from modelmill.tasks.lm.data import open_tokens
from modelmill.tasks.pretrain.config import Config
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


def test_what_cannot_be_resolved_is_refused(tokens_folder: Path) -> None:
    tokens = open_tokens(tokens_folder)
    with pytest.raises(RecipeError, match=r"pretrain\.learning_rate is not set"):
        resolve(Config(), {key: value for key, value in CHOICE.items() if key != "learning_rate"}, tokens)
    with pytest.raises(RecipeError, match="shorten one of them"):
        resolve(Config(total_tokens=256), CHOICE, tokens)
