"""A release of the tiny line: it opens, its card tells the lineage, and what does not fit is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from modelmill.tasks.errors import ContractError
from modelmill.tasks.evaluate.config import BitsPerByte, Verified
from modelmill.tasks.evaluate.config import Config as EvaluateConfig
from modelmill.tasks.evaluate.stage import run as evaluate
from modelmill.tasks.files import file_digest, read_json, write_json
from modelmill.tasks.release.config import Config
from modelmill.tasks.release.lineage import line_manifests
from modelmill.tasks.release.stage import run
from modelmill.tasks.stage import Artifact
from tests.tasks.evaluate.line import TransformersSampler, artifact, context, tiny_line

CONFIG = Config(name="tiny-talker", summary="A model for tests.", limits=("It knows nothing.",))
Line = dict[str, list[Artifact]]


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Line:
    torch.set_num_threads(1)
    home = tmp_path_factory.mktemp("line")
    line = tiny_line(home)
    part = Verified(items=6, max_new_tokens=4, models=("pretrain", "align/*"))
    config = EvaluateConfig(bits_per_byte=BitsPerByte(tokens_per_domain=128), verified=part, needle=None, tasks=())
    evaluate(context(config, line, home / "work", TransformersSampler()))
    shutil.copytree(home / "work" / "output", home / "scorecard")
    made_from = [{"type": each.type, "stage": each.stage_id, "digest": each.digest} for each in line["tokens"]]
    counts = {"in": 9, "out": 9, "unit": "models", "dropped": {}}
    scorecard = artifact(
        "scorecard", "evaluate", home / "scorecard", inputs=made_from, counts=counts, waivers=["needle at 128 waived"]
    )
    return {kind: line[kind] for kind in ("fit", "checkpoint", "chat")} | {"scorecard": [scorecard]}


@pytest.fixture(scope="module")
def release(scored: Line, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = tmp_path_factory.mktemp("release")
    run(context(CONFIG, scored, workspace))
    return workspace / "output"


def test_folder_opens_and_talks(release: Path, scored: Line) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(release / "model")
    model: Any = AutoModelForCausalLM.from_pretrained(release / "model")
    ends = GenerationConfig.from_pretrained(release / "model").eos_token_id
    assert ends == sorted([tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|eot|>")])
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "2+3="}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    assert model.generate(**prompt, max_new_tokens=3).shape[1] <= prompt["input_ids"].shape[1] + 3
    source = scored["chat"][0].path / "model" / "model.safetensors"
    assert file_digest(release / "model" / "model.safetensors") == file_digest(source)


def test_nothing_of_training_is_given_away(release: Path) -> None:
    names = {path.name for path in (release / "model").iterdir()}
    assert names == {
        "README.md", "model.safetensors", "config.json", "generation_config.json", "tokenizer.json",
        "tokenizer_config.json", "chat_template.jinja",
    }  # fmt: skip
    record = read_json(release / "release.json")
    assert set(record["files"]) == names and record["name"] == "tiny-talker" and record["model"] == "align/dpo-1"
    assert record["dtypes"] == ["F32"] and record["parameters"] > 50_000
    checkpoints = [each["stage"] for each in record["inputs"] if each["type"] == "checkpoint"]
    assert checkpoints == ["pretrain", "extend", "anneal"]


def test_card_tells_scores_lineage_limits_and_waivers(release: Path, scored: Line) -> None:
    card = (release / "model" / "README.md").read_text()
    assert card.startswith("---\nlicense: other\n") and "# tiny-talker" in card
    for name in ("scaling", "pretrain", "extend", "anneal", "align", "evaluate"):
        assert f"| {name} |" in card
    for made in scored["checkpoint"]:
        assert made.digest[:16] in card and made.manifest["key"][:16] in card
    assert "malformed 3" in card and "learning_rate: 0.004" in card
    assert "It knows nothing." in card and "evaluate: needle at 128 waived" in card
    assert "**0.0% (0.0%–39.0%)** of 6" in card and "| align/dpo-1 |" in card


def test_same_inputs_same_bytes(release: Path, scored: Line, tmp_path: Path) -> None:
    run(context(CONFIG, scored, tmp_path))
    for path in sorted(release.rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "output" / path.relative_to(release)).read_bytes()


def test_lineage_follows_inputs_that_lie_beside(tmp_path: Path) -> None:
    for name, inputs in (("a", []), ("b", ["a"]), ("c", ["a", "b", "gone"])):
        made_from = [{"type": "t", "stage": each, "digest": each} for each in inputs]
        write_json(tmp_path / name / "manifest.json", {"id": name, "digest": name, "inputs": made_from})
    manifest = read_json(tmp_path / "c" / "manifest.json")
    last = Artifact("t", tmp_path / "c", "c", "c", manifest)
    assert [each["id"] for each in line_manifests([last])] == ["a", "b", "c"]


def damaged(scored: Line, tmp_path: Path) -> tuple[Line, Path]:
    """The line with a copy of its chat artifact that a test may spoil."""
    chat = scored["chat"][0]
    shutil.copytree(chat.path, tmp_path / "chat")
    copy = Artifact(chat.type, tmp_path / "chat", chat.digest, chat.stage_id, chat.manifest)
    return scored | {"chat": [copy]}, tmp_path / "chat" / "model"


def test_another_tokenizer_is_refused(scored: Line, tmp_path: Path) -> None:
    line, model = damaged(scored, tmp_path)
    tokenizer = read_json(model / "tokenizer.json")
    tokenizer["added_tokens"][6]["special"] = False
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ContractError, match=r"tokenizer\.json of pretrain .* differs"):
        run(context(CONFIG, line, tmp_path / "work"))


def test_another_chat_template_is_refused(scored: Line, tmp_path: Path) -> None:
    line, model = damaged(scored, tmp_path)
    with (model / "chat_template.jinja").open("a") as file:
        file.write(" ")
    with pytest.raises(ContractError, match="chat template of pretrain"):
        run(context(CONFIG, line, tmp_path / "work"))


def test_a_vocabulary_beyond_the_embedding_is_refused(scored: Line, tmp_path: Path) -> None:
    line, model = damaged(scored, tmp_path)
    config = read_json(model / "config.json")
    write_json(model / "config.json", config | {"vocab_size": config["vocab_size"] + 1})
    with pytest.raises(ContractError, match=r"embedding has \d+ rows"):
        run(context(CONFIG, line, tmp_path / "work"))


def test_cut_weights_and_weights_that_were_not_scored_are_refused(scored: Line, tmp_path: Path) -> None:
    line, model = damaged(scored, tmp_path)
    weights = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(ContractError, match="no figures of the released weights"):
        run(context(CONFIG, line, tmp_path / "work"))
    (model / "model.safetensors").write_bytes(weights[:100])
    with pytest.raises(ContractError, match="not a whole safetensors file"):
        run(context(CONFIG, line, tmp_path / "work"))
