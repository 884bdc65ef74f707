"""Hostile folders of models: nothing of theirs runs, hangs or allocates; each is refused in one sentence."""

import json
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelmill.services.chat_models import LocalModel
from modelmill.services.model_folder import example_questions, find_model_folder, model_name
from modelmill.services.serving import engine_command
from modelmill.tasks.errors import InputError
from modelmill.tasks.lm.model import load_model
from modelmill.tasks.models.load import load_causal_model, load_encoder, load_tokenizer
from modelmill.tasks.tokenize.train import TEMPLATE
from tests.tasks.evaluate.tiny import write_model

TURNS = [{"role": "user", "content": "hi"}]
PROBE = "import pathlib; pathlib.Path({marker!r}).touch()"

STOPPED = "MemoryError|too much memory"  # by its own limit, or on a loaded machine by that of time


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny chat model as transformers saves one."""
    folder = tmp_path_factory.mktemp("plain")
    return write_model(folder / "model")


@pytest.fixture
def folder(plain: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(plain, tmp_path / "model"))


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def refused(folder: Path, message: str, *openings: Callable[[Path], Any]) -> None:
    for opened in openings or (load_causal_model, load_encoder, load_model, find_model_folder, LocalModel):
        with pytest.raises(InputError, match=message) as found:
            opened(folder)
        assert "\n" not in str(found.value) and len(str(found.value)) < 700


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"scores": {}}',
        "[" * 200_000,
        '{"name": 3}',
        '{"name": "x", "scores": {"verified": {"examples": 1}}}',
    ],
)
def test_another_programs_release_json_beside_a_folder_is_not_read(folder: Path, text: str) -> None:
    (folder.parent / "release.json").write_text(text)
    assert model_name(folder) == folder.parent.name and example_questions(folder) == []


def test_a_question_of_a_family_without_a_figure_comes_last(folder: Path) -> None:
    verified = {"examples": {"a": "1+1?", "b": "2+2?"}, "by_family": {"b": {"accuracy": 0.5, "n": 10}}}
    (folder.parent / "release.json").write_text(json.dumps({"name": "x", "scores": {"verified": verified}}))
    assert model_name(folder) == "x" and example_questions(folder) == ["2+2?", "1+1?"]


def test_pickled_weights_are_refused_and_not_opened(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    program = f"cos\nsystem\n(S'touch {tmp_path / 'ran'}'\ntR."
    (folder / "pytorch_model.bin").write_text(program)
    refused(folder, "pytorch_model.bin, a format that can hold programs")
    (folder / "pytorch_model.bin").unlink()
    refused(folder, r"has no \*.safetensors")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_of_the_folder_never_runs(folder: Path, tmp_path: Path, file: str) -> None:
    (folder / "evil.py").write_text(PROBE.format(marker=str(tmp_path / "ran")))
    if file == "config.json":
        classes = {"AutoConfig": "evil.C", "AutoModel": "evil.M", "AutoModelForCausalLM": "evil.M"}
        change(folder / file, model_type="evil", auto_map=classes)
        refused(folder, "needs Python code that comes with it", load_causal_model, load_encoder)
    else:
        change(folder / file, tokenizer_class="EvilTokenizer", auto_map={"AutoTokenizer": ["evil.T", "evil.T"]})
        refused(folder, "needs Python code that comes with it", load_tokenizer)
    assert not (tmp_path / "ran").exists()


def test_a_kernel_to_download_is_code_too(folder: Path) -> None:
    change(folder / "config.json", _attn_implementation="somebody/kernel")
    refused(folder, "is code from elsewhere")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"vocab_size": 10**12}, "vocab_size is 1000000000000; expected a whole number from 1"),
        ({"hidden_size": -64}, "hidden_size is -64"),
        ({"num_hidden_layers": "many"}, "num_hidden_layers is 'many'"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"max_position_embeddings": 1e30}, "max_position_embeddings is"),
        ({"vocab_size": 1 << 23, "hidden_size": 1 << 12}, "describes at least [0-9,]+ parameters"),
        ({"num_hidden_layers": 4000, "hidden_size": 8192}, "describes at least [0-9,]+ parameters"),
    ],
)
def test_sizes_that_no_model_has_are_refused_before_memory_is_taken(
    folder: Path, values: dict[str, Any], message: str
) -> None:
    change(folder / "config.json", **values)
    refused(folder, message)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "\x00\xff", "[" * 100_000, '{"model_type": 7}'])
def test_garbage_instead_of_a_configuration(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    refused(folder, "config.json|cannot be opened", load_causal_model, load_encoder, load_model, LocalModel)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "nonsense", '{"model": {"type": "BPE", "vocab": {}, "merges": [[[]]]}}']
)
def test_garbage_instead_of_a_tokenizer(folder: Path, text: str) -> None:
    (folder / "tokenizer.json").write_text(text)
    refused(folder, "cannot be opened", load_tokenizer, LocalModel)


def test_files_that_are_none_or_huge(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")  # opening it would wait for ever
    refused(folder, "tokenizer.json is no file", load_tokenizer)
    (folder / "tokenizer.json").unlink()
    with (folder / "tokenizer.json").open("wb") as file:
        file.truncate(1 << 40)
    refused(folder, "has 1,099,512 MB", load_tokenizer, LocalModel, load_model)


@pytest.mark.parametrize("damage", ["cut", "header", "offsets"])
def test_weights_that_are_not_whole(folder: Path, damage: str) -> None:
    path = folder / "model.safetensors"
    data = path.read_bytes()
    if damage == "cut":
        path.write_bytes(data[:-10])
    elif damage == "header":
        path.write_bytes(struct.pack("<Q", 1 << 60) + data[8:])
    else:
        path.write_bytes(data + bytes(1000))
    refused(folder, "is not whole|no safetensors file")


def test_a_missing_tensor_is_not_made_up(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors.pop("model.layers.0.mlp.down_proj.weight")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    refused(folder, "lacks 1 of the model's tensors", load_causal_model, load_model)


def test_an_index_names_no_file_elsewhere(folder: Path) -> None:
    index = {"weight_map": {"lm_head.weight": "../../elsewhere.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(folder, "names a file outside of its folder")


def test_a_foreign_template_writes_what_transformers_would(folder: Path) -> None:
    tokenizer: Any = load_tokenizer(folder)
    tokenizer.chat_template = TEMPLATE.read_text()
    shipped = tokenizer.apply_chat_template([TURNS] * 2, return_dict=True, return_assistant_tokens_mask=True)
    tokenizer.chat_template += "{# another #}"
    foreign = tokenizer.apply_chat_template([TURNS] * 2, return_dict=True, return_assistant_tokens_mask=True)
    assert dict(foreign) == dict(shipped)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{% set n = namespace(s='x') %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}",
            "MemoryError|too much memory",
        ),
        ("{{ 'a' * 10 ** 11 }}", STOPPED),
        ("{{ 'a' * 10 ** 8 }}", "more than 16,000,000 characters"),
        ("{{ cycler.__init__.__globals__.os.system('touch MARKER') }}", "SecurityError"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{{ raise_exception('no system prompt') }}", "no system prompt"),
        ("{% if %}", "TemplateSyntaxError"),
    ],
)
def test_hostile_templates_end_in_one_sentence(folder: Path, tmp_path: Path, template: str, message: str) -> None:
    tokenizer: Any = load_tokenizer(folder)
    tokenizer.chat_template = template.replace("MARKER", str(tmp_path / "ran"))
    with pytest.raises(InputError, match=message):
        tokenizer.apply_chat_template(TURNS, tokenize=False)
    assert not (tmp_path / "ran").exists()


def test_a_template_that_counts_for_ever_is_stopped_and_the_next_one_works(folder: Path) -> None:
    """Takes the five seconds of processor time that a template may use."""
    tokenizer: Any = load_tokenizer(folder)
    tokenizer.chat_template = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    started = time.monotonic()
    with pytest.raises(InputError, match="takes too long"):
        tokenizer.apply_chat_template(TURNS, tokenize=False)
    assert time.monotonic() - started < 60
    tokenizer.chat_template = "{{ messages[0].content }}!"
    assert tokenizer.apply_chat_template(TURNS, tokenize=False) == "hi!"


def test_the_process_of_templates_ends_with_its_parent(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}!")
    program = (
        "import os, sys; from modelmill.tasks.models import load, templates\n"
        f"tokenizer = load.load_tokenizer({str(folder)!r})\n"
        f"print(tokenizer.apply_chat_template({TURNS!r}, tokenize=False), templates._state._process.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    text, pid = done.stdout.split()
    assert text == "hi!"
    deadline = time.monotonic() + 20
    while Path("/proc", pid).exists() and "Z" not in Path("/proc", pid, "stat").read_text().split()[2]:
        assert time.monotonic() < deadline, "the process outlived its parent"
        time.sleep(0.05)


def test_settings_of_a_folder_do_not_decide_how_a_reply_is_sampled(folder: Path) -> None:
    change(folder / "generation_config.json", num_beams=1000, do_sample=True, temperature=2.0)
    settings = LocalModel(folder)._model.generation_config
    assert not settings.num_beams or settings.num_beams == 1


def test_vllm_opens_no_pickles_and_runs_no_code(folder: Path) -> None:
    command = engine_command(folder, "tiny", folder / "engine.sock")
    assert command[command.index("--load-format") + 1] == "safetensors"
    assert "--trust-remote-code" not in command
