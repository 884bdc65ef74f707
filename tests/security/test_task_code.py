"""Programs in the lm-eval tasks of a recipe: refused before anything runs unless the recipe allows them."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pydantic import ValidationError
from transformers import AutoTokenizer

from modelmill.flows.recipe import load_line
from modelmill.tasks.errors import InputError, RecipeError
from modelmill.tasks.evaluate.adapter import SamplerLM
from modelmill.tasks.evaluate.config import HarnessTask
from modelmill.tasks.evaluate.harness import harness_scores
from tests.tasks.evaluate.line import TransformersSampler
from tests.tasks.evaluate.tiny import write_model

ROWS = [{"question": f"{a} + {b}", "answer": (a + b) % 3, "choices": ["1", "2", "3"]} for a in (1, 2) for b in (1, 2)]
TASK = """
task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: sums.json}}
test_split: test
output_type: multiple_choice
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
"""
PLAIN = TASK + 'doc_to_text: "{{question}} ="\nmetric_list: [{metric: acc}]\n'
FUNCTION = TASK + "doc_to_text: !function evil.text\nmetric_list: [{metric: acc}]\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A task's folder with data and a module that leaves a mark when it is imported or called."""
    (tmp_path / "sums.json").write_text("\n".join(map(json.dumps, ROWS)))
    mark = f"__import__('pathlib').Path({str(tmp_path / 'ran')!r}).touch()"
    (tmp_path / "evil.py").write_text(f"{mark}\ndef text(row):\n    return row['question'] + ' ='\n")
    return tmp_path


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> SamplerLM:
    folder = write_model(tmp_path_factory.mktemp("model"))
    sampler = TransformersSampler()
    sampler.load(folder, 128)
    return SamplerLM(sampler, AutoTokenizer.from_pretrained(folder), 128, "tiny")


def task_file(folder: Path, text: str, name: str = "sums.yaml") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (FUNCTION, "!function evil.text"),
        (f"{PLAIN}process_docs: !function evil.text", "!function evil.text"),
        (f"{PLAIN}fewshot_config: {{samples: !function evil.text}}", "!function evil.text"),
        ("task: x\nclass: !function evil.text", "!function evil.text"),
        (f"{PLAIN}unsafe_code: true", "unsafe_code: True"),
        (f"{TASK}metric_list: [{{metric: ./evil.py}}]", "metric: ./evil.py"),
        (f"{TASK}metric_list: [{{metric: acc, hf_evaluate: true}}]", "hf_evaluate: True"),
        (f"{PLAIN}use_prompt: 'evil.yaml:x'", "use_prompt"),
        ("task: x\ndataset_path: ./evil.py", "dataset_path"),
        ("task: x\ndataset_path: pandas\ndataset_kwargs: {data_files: rows.pkl}", "dataset_path: pandas"),
        ("task: x\ndataset_path: a/b\ndataset_kwargs: {trust_remote_code: true}", "trust_remote_code"),
    ],
)
def test_a_recipe_with_programs_is_refused_when_it_is_read(folder: Path, text: str, found: str) -> None:
    task = task_file(folder, text)
    with pytest.raises(ValidationError, match=f"{found}.*allow_code: true"):
        HarnessTask(task=task)
    for outer in ("task: y\ninclude: sums.yaml", "group: g\ntask: [{task: y, include: [sums.yaml]}]"):
        part = {"evaluate": {"tasks": [{"task": task_file(folder, outer, "outer.yaml")}]}}
        with pytest.raises(RecipeError, match=found):
            load_line({"name": "a", "line": ["ingest", "evaluate"]} | part | SOURCE)
    assert HarnessTask(task=task, allow_code=True).allow_code
    assert not (folder / "ran").exists()


SOURCE = {"ingest": {"sources": [{"kind": "text", "name": "notes", "paths": ["x.txt"]}]}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("!!python/object/apply:os.system ['true']", "not readable as YAML"),
        ("[1, 2]", "expected a mapping"),
        ("task: x\ninclude: sums.yaml", "includes itself"),
        ("a: &a [x, x]\n" + "".join(f"b{i}: &b{i} [*a, *a]\n" for i in range(3)) + "unsafe_code: yes", "unsafe_code"),
    ],
)
def test_files_that_are_no_task(folder: Path, text: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        HarnessTask(task=task_file(folder, text))


@pytest.mark.parametrize("name", ["humaneval", "mbpp_plus", "cruxeval_output"])
def test_tasks_that_execute_what_a_model_writes_need_the_word(name: str) -> None:
    with pytest.raises(ValidationError, match="executes programs that the model writes"):
        HarnessTask(task=name)
    assert HarnessTask(task=name, allow_code=True).source() == ("registry", name)
    assert HarnessTask(task="hellaswag").source() == ("registry", "hellaswag")


def test_with_the_word_it_runs(lm: SamplerLM, folder: Path) -> None:
    task = HarnessTask(task=task_file(folder, FUNCTION), allow_code=True)
    assert harness_scores(lm, task)["sums"]["n"] == 4
    assert (folder / "ran").exists()


def test_a_file_changed_after_it_was_read_runs_nothing(lm: SamplerLM, folder: Path) -> None:
    """The plan read another file than the stage does, a week later."""
    task = HarnessTask(task=task_file(folder, PLAIN))
    task_file(folder, FUNCTION)
    with pytest.raises(RecipeError, match=r"names evil\.text, a program"):
        harness_scores(lm, task)
    assert not (folder / "ran").exists()


def test_a_group_runs_nothing_of_its_members(lm: SamplerLM, folder: Path) -> None:
    task_file(folder, FUNCTION)
    group = task_file(folder, "group: both\ntask: [sums]\n", "group.yaml")
    with pytest.raises(RecipeError, match=r"names evil\.text, a program"):
        harness_scores(lm, HarnessTask(task=group))
    assert not (folder / "ran").exists()


def test_a_template_does_not_reach_the_machine(lm: SamplerLM, folder: Path) -> None:
    """lm-eval renders templates in a plain jinja environment, from which Python's modules are four attributes away."""
    mark = folder / "ran"
    attack = f"{{{{ cycler.__init__.__globals__.os.system('touch {mark}') }}}}"
    task = HarnessTask(task=task_file(folder, TASK + f'doc_to_text: "{attack}"\nmetric_list: [{{metric: acc}}]\n'))
    with pytest.raises(InputError, match="cannot be rendered: access to attribute '__init__'"):
        harness_scores(lm, task)
    assert not mark.exists()


def test_a_metric_that_lm_eval_has_not_is_fetched_from_nowhere(
    lm: SamplerLM, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hugging Face's evaluate runs `code/code.py` of the current folder for a metric called `code`."""
    (folder / "code").mkdir()
    (folder / "evil.py").rename(folder / "code" / "code.py")
    monkeypatch.chdir(folder)
    task = HarnessTask(task=task_file(folder, PLAIN.replace("acc", "code")))
    with pytest.raises(InputError, match=r"metrics that lm-eval itself has not: \['code'\]"):
        harness_scores(lm, task)
    assert not (folder / "ran").exists()


def test_data_on_a_server_are_not_fetched_without_hub(lm: SamplerLM, folder: Path) -> None:
    """`datasets` fetches an address also when the hub is switched off."""
    asked: list[str] = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        remote = PLAIN.replace("sums.json", f"'http://127.0.0.1:{server.server_port}/sums.json'")
        with pytest.raises(InputError, match="keeps this task off the network"):
            harness_scores(lm, HarnessTask(task=task_file(folder, remote)))
        server.shutdown()
    assert asked == []
