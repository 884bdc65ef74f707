"""The whole stage over a tiny line, with a real model behind every figure."""

from pathlib import Path
from typing import Any

import pytest

from modelmill.tasks.errors import InputError
from modelmill.tasks.evaluate.config import BitsPerByte, Config, HarnessTask, Needle, Verified
from modelmill.tasks.evaluate.models import by_shape, line_models, selected
from modelmill.tasks.evaluate.scorecard import paired_difference
from modelmill.tasks.evaluate.stage import run
from modelmill.tasks.files import file_digest, read_json
from modelmill.tasks.lm.settings import NeedleConfig
from modelmill.tasks.stage import Artifact
from tests.tasks.evaluate.line import TransformersSampler, context

FACTS = NeedleConfig(sentence="the {key} is {value}", keys=("fox", "list"), num_digits=1)
CONFIG = Config(
    bits_per_byte=BitsPerByte(tokens_per_domain=128),
    verified=Verified(items=6, max_new_tokens=4, models=("pretrain", "align/*")),
    needle=Needle(lengths=(48, 100), depths=(0.0, 1.0), trials=1, facts=FACTS, models=("pretrain", "anneal")),
    tasks=(HarnessTask(task="python-library", limit=4, models=("anneal",)),),
)
IDS = ["pretrain", "extend", "anneal", "align/sft-1", "align/dpo-1"]


@pytest.fixture(scope="module")
def built(line: dict[str, list[Artifact]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = tmp_path_factory.mktemp("evaluate")
    run(context(CONFIG, line, workspace, TransformersSampler()))
    return workspace


def test_every_checkpoint_of_the_line_is_in_one_table(built: Path) -> None:
    card = read_json(built / "output" / "scorecard.json")
    models: dict[str, Any] = {model["id"]: model for model in card["models"]}
    assert list(models) == IDS
    for model in models.values():
        assert set(model["bits_per_byte"]) == {"all", "web", "code"} and model["bits_per_byte"]["all"] > 0
    assert [cell["length"] for cell in models["pretrain"]["needle"]] == [48, 48]
    assert [cell["length"] for cell in models["anneal"]["needle"]] == [48, 48, 100, 100]
    assert models["anneal"]["tasks"]["python-library"]["metrics"]["acc"]["stderr"] > 0
    assert models["pretrain"]["verified"]["n"] == 6 and "verified" not in models["anneal"]
    assert [(each["from"], each["to"]) for each in card["comparisons"]] == [
        ("pretrain", "align/sft-1"), ("align/sft-1", "align/dpo-1"), ("pretrain", "align/dpo-1"),
    ]  # fmt: skip
    assert card["contamination"]["python-library"]["contaminated"] == 0
    table = (built / "output" / "scorecard.md").read_text()
    assert all(f"| {name} |" in table for name in IDS) and "python-library, 95 %" in table


def test_a_second_run_measures_nothing_and_writes_the_same_bytes(
    built: Path, line: dict[str, list[Artifact]], tmp_path: Path
) -> None:
    before = file_digest(built / "output" / "scorecard.json")
    sampler = TransformersSampler()
    run(context(CONFIG, line, built, sampler))
    assert sampler.loaded == [] and file_digest(built / "output" / "scorecard.json") == before
    fresh = TransformersSampler()
    run(context(CONFIG, line, tmp_path, fresh))
    assert file_digest(tmp_path / "output" / "scorecard.json") == before
    assert len(fresh.loaded) == 4  # extend is asked nothing that needs sampling


def test_a_pattern_that_fits_no_model_is_refused(line: dict[str, list[Artifact]]) -> None:
    models = line_models(line)
    assert [model.id for model in selected(models, ("*",), ("align/*", "pretrain"))] == [IDS[0], *IDS[3:]]
    with pytest.raises(InputError, match="ids are pretrain, extend"):
        selected(models, ("algin/*",))


def test_models_of_one_shape_follow_each_other(line: dict[str, list[Artifact]]) -> None:
    models = line_models(line)
    shapes = [model.shape for model in by_shape([models[1], models[0], *models[2:]])]
    assert shapes == [models[1].shape] * 4 + [models[0].shape]


def test_paired_difference_is_narrower_than_two_intervals() -> None:
    before = [0.0, 1.0, 1.0, 0.0] * 25
    after = [1.0, 1.0, 1.0, 0.0] * 25
    change = paired_difference(before, after)
    assert change["difference"] == 0.25 and change["n"] == 100
    assert change["low"] == pytest.approx(0.25 - 1.96 * (0.1875 / 99) ** 0.5, abs=1e-6)
