"""Labels by a teacher: it reads a sample, its answers become labels, and the student carries them to every document."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from safetensors.numpy import save_file
from transformers import AutoTokenizer

from modelmill.tasks.curate.config import Config, external_digests
from modelmill.tasks.curate.stage import run
from modelmill.tasks.curate.teacher import judge_prompts, label_of, named_of
from modelmill.tasks.errors import InputError
from modelmill.tasks.files import read_json
from modelmill.tasks.stage import Sample, StageContext
from modelmill.tasks.tokenize.merges import trained_bpe
from modelmill.tasks.tokenize.train import save_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher") / "model"
    save_tokenizer(trained_bpe(["The old building in the valley."] * 2, 300, 2, 32), folder)
    (folder / "config.json").write_text("{}")
    save_file({"weight": np.zeros(3, np.float32)}, folder / "model.safetensors")
    return folder


class Judge:
    """A sampler whose model calls documents good that speak of a valley, and shrugs at some."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.loaded: list[Path] = []
        self.read: list[str] = []

    def load(self, folder: Path, max_length: int) -> None:
        self.loaded.append(folder)
        self.max_length = max_length

    def sample(self, prompts: Sequence[Sequence[int]], **options: Any) -> list[list[Sample]]:
        assert max(map(len, prompts)) + options["max_tokens"] <= self.max_length
        texts = [self.tokenizer.decode(prompt).split("-----")[1] for prompt in prompts]
        self.read += texts
        replies = ["Hm." if "x7" in text else "Yes." if "valley" in text else " no, it does not" for text in texts]
        return [[Sample([], reply, 0.0, True)] for reply in replies]

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        raise AssertionError("labels are sampled")


def quality(folder: Path, **teacher: Any) -> dict[str, Any]:
    named = {"model": str(folder), "requirements": "It speaks of a valley.", "documents": 90, "max_tokens": 200}
    return {"quality": {"teacher": named | teacher, "threshold": 0.5}}


def test_the_student_learns_what_the_teacher_says(make_context: Callable[..., StageContext], folder: Path) -> None:
    judge = Judge(folder)
    context = replace(make_context(quality(folder)), sampler=lambda: judge)
    result = run(context)
    kept = pq.read_table(context.output / "documents").to_pylist()
    assert len(judge.read) == 90 and judge.loaded == [folder]
    assert result.metrics["quality_auc"] > 0.95
    assert {("valley" in row["text"]) for row in kept} == {True} and len(kept) == 120
    labels = pq.read_table(context.output / "scores" / "labels").to_pylist()
    assert {(row["reply"], row["label"]) for row in labels} >= {(None, -1), ("Yes.", 1), (" no, it does not", 0)}
    training = read_json(context.output / "scores" / "found.json")["training"]
    assert training["positive"] == sum(row["label"] == 1 for row in labels)

    run(context)  # every part's labels are there
    assert len(judge.read) == 90 and len(judge.loaded) == 1


def test_the_prompt_shows_the_question_and_the_beginning(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    question = "Is it about {document}?\n-----\n{document}\n-----\n"
    (prompt,) = judge_prompts(tokenizer, 16, [question], ["The old building " + "z" * 900])
    text = tokenizer.decode(prompt)
    assert "Is it about {document}?" in text and "The old building zz" in text and "z" * 20 not in text
    assert text.endswith("assistant<|end_header|>\n")


@pytest.mark.parametrize(
    ("reply", "label"), [("Yes", 1), (" NO.", 0), ("I say no, not yes", 0), ("", -1), ("yesterday", -1)]
)
def test_replies(reply: str, label: int) -> None:
    assert label_of(reply) == label


@pytest.mark.parametrize(
    ("reply", "name"), [("Art.", "art"), ("it is art-film", "art-film"), ("none", None), ("partial", None)]
)
def test_names_in_replies(reply: str, name: str | None) -> None:
    assert named_of(reply, {"art": "", "art-film": ""}) == name


class Sorter(Judge):
    """A sampler whose model names a topic and then a category, and none for some documents."""

    def sample(self, prompts: Sequence[Sequence[int]], **options: Any) -> list[list[Sample]]:
        assert max(map(len, prompts)) + options["max_tokens"] <= self.max_length
        asked = [self.tokenizer.decode(prompt) for prompt in prompts]
        return [[Sample([], self.reply(*text.split("-----")[:2]), 0.0, True)] for text in asked]

    def reply(self, question: str, document: str) -> str:
        if "code:" in question and "prose:" in question:
            return "none" if "x7)" in document else "Prose" if "valley" in document else "I say code."
        return ("valley" if "valley" in document else "listing") + "\nSure!"


def test_a_teacher_names_categories(make_context: Callable[..., StageContext], folder: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.yaml"
    labels.write_text("prose:\n  valley: about one\n  other: all else\ncode:\n  listing: names\n")
    sorter = Sorter(folder)
    recipe = {"categories": {"labels": str(labels), "teacher": {"model": str(folder), "documents": 90}}}
    context = replace(make_context(recipe), sampler=lambda: sorter)
    result = run(context)
    kept = pq.read_table(context.output / "documents").to_pylist()
    assert {(row["topic"], row["category"], "valley" in row["text"]) for row in kept} == {
        ("prose", "prose/valley", True), ("code", "code/listing", False)
    }  # fmt: skip
    assert result.metrics["category_accuracy"] == 1.0 and all(row["category_score"] > 0.5 for row in kept)
    read = pq.read_table(context.output / "scores" / "category-labels").to_pylist()
    assert sum(row["reply"] is not None for row in read) == 90
    assert {row["category"] for row in read if row["reply"] == "none"} <= {None}
    assert "categories.teacher" in external_digests(context.config)


def test_the_teacher_enters_the_key_by_its_content(folder: Path, tmp_path: Path) -> None:
    config = Config.model_validate(quality(folder))
    before = external_digests(config)["quality.teacher"]
    save_file({"weight": np.ones(3, np.float32)}, folder / "model.safetensors")
    assert external_digests(config)["quality.teacher"] != before
    with pytest.raises(InputError, match=r"holds no config\.json"):
        external_digests(Config.model_validate(quality(tmp_path)))
    with pytest.raises(ValidationError, match="either from `positive`"):
        Config.model_validate({"quality": {"threshold": 0.5}})
