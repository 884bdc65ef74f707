"""lm-eval tasks from local files, with a real model and without the network."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from modelmill.tasks.errors import InputError
from modelmill.tasks.evaluate.adapter import SamplerLM
from modelmill.tasks.evaluate.config import Config, HarnessTask, external_digests
from modelmill.tasks.evaluate.harness import harness_scores
from tests.tasks.evaluate.line import TransformersSampler

ROWS = [{"question": f"{a} + {b}", "choices": ["1", "2", "3"], "answer": (a + b) % 3} for a in (1, 2) for b in (1, 2)]
TASK = """
task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: sums.json}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}} ="
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}]
"""


@pytest.fixture(scope="module")
def lm(model_folder: Path) -> SamplerLM:
    sampler = TransformersSampler()
    sampler.load(model_folder, 128)
    return SamplerLM(sampler, AutoTokenizer.from_pretrained(model_folder), 128, "tiny")


def test_shipped_suite_with_standard_error(lm: SamplerLM) -> None:
    (name, score), *others = harness_scores(lm, HarnessTask(task="python-library", limit=8)).items()
    assert (name, others) == ("python-library", [])
    accuracy = score["metrics"]["acc"]
    assert score["n"] == len(score["correct"]) == 8 and score["main_metric"] == "acc"
    assert accuracy["value"] == pytest.approx(sum(score["correct"]) / 8)
    assert accuracy["low"] < accuracy["value"] < accuracy["high"] and accuracy["stderr"] > 0


def test_task_file_finds_its_data_beside_it(lm: SamplerLM, tmp_path: Path) -> None:
    (tmp_path / "sums.yaml").write_text(TASK)
    (tmp_path / "sums.json").write_text("\n".join(map(json.dumps, ROWS)))
    task = HarnessTask(task=str(tmp_path / "sums.yaml"), num_fewshot=1)
    assert harness_scores(lm, task)["sums"]["n"] == 4
    before = external_digests(Config(tasks=(task,)))
    (tmp_path / "sums.json").write_text("\n".join(map(json.dumps, ROWS[1:])))
    assert before != external_digests(Config(tasks=(task,)))


def test_open_answers_in_the_chat_template(lm: SamplerLM, tmp_path: Path) -> None:
    suite = tmp_path / "open.jsonl"
    suite.write_text('{"question": "1 + 1", "answer": "2"}\n{"question": "the quick", "answer": "fox"}\n')
    score = harness_scores(lm, HarnessTask(task=str(suite), chat_template=True))["open"]
    assert score["n"] == 2 and score["metrics"]["exact_match"]["value"] == 0.0


def test_unknown_task_says_what_may_be_given(lm: SamplerLM, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="shipped suite"):
        harness_scores(lm, HarnessTask(task=str(tmp_path / "absent.yaml")))
