"""Masks: only the assistant's words and the end of its turn are under the loss, and anything else stops the stage."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from modelmill.tasks.align.chat import ChatFormat, loss_share, open_chat_format, read_examples, write_examples
from modelmill.tasks.errors import ContractError
from modelmill.tasks.verify.problems import problem_set


def test_exactly_the_reply_and_its_end_are_under_the_loss(chat: ChatFormat):
    [(tokens, mask)] = chat.examples(["Sort up: 312"], ["123"])
    trained = [token for token, bit in zip(tokens, mask, strict=True) if bit]
    assert chat.tokenizer.convert_ids_to_tokens(trained) == ["1", "2", "3", "<|eot|>"]
    [prompt] = chat.prompts(["Sort up: 312"])
    assert tokens == prompt + trained
    assert chat.end_of_turn == trained[-1]


def test_headers_and_ends_are_formatting_and_digits_are_not(chat: ChatFormat):
    tokens: Any = chat.tokenizer.convert_tokens_to_ids(["<|eot|>", "<|start_header|>", "<|end_of_text|>", "1"])
    assert [token in chat.formatting for token in tokens] == [True, True, True, False]


def test_the_share_under_the_loss_is_checked(chat: ChatFormat):
    problems = problem_set("train", 30, seed=0)
    examples = chat.examples([p.prompt for p in problems], [p.answer for p in problems])
    assert 0.02 < loss_share(examples, (0.02, 0.6)) < 0.6
    everything = [(tokens, [1] * len(tokens)) for tokens, _ in examples]
    with pytest.raises(ContractError, match=r"100\.0% of the tokens are under the supervised loss"):
        loss_share(everything, (0.02, 0.6))
    with pytest.raises(ContractError, match=r"0\.0%"):
        loss_share([(tokens, [0] * len(tokens)) for tokens, _ in examples], (0.02, 0.6))


def test_examples_survive_their_file(chat: ChatFormat, tmp_path: Path):
    examples = chat.examples(["Copy: 1", "Copy: 22"], ["1", "22"])
    write_examples(tmp_path / "examples.parquet", examples)
    assert read_examples(tmp_path / "examples.parquet") == examples


def change_template(folder: Path, target: Path, old: str, new: str) -> Path:
    shutil.copytree(folder, target)
    path = target / "chat_template.jinja"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    return target


def test_a_template_without_marks_is_refused(tokenizer_folder: Path, tmp_path: Path):
    folder = change_template(tokenizer_folder, tmp_path / "one", "{%- generation -%}", "")
    change = folder / "chat_template.jinja"
    change.write_text(change.read_text(encoding="utf-8").replace("{%- endgeneration -%}", ""), encoding="utf-8")
    with pytest.raises(ContractError, match="no chat template with"):
        open_chat_format(folder)


def test_a_template_whose_replies_do_not_end_is_refused(tokenizer_folder: Path, tmp_path: Path):
    assistant = "{{- message['content'] + '<|eot|>' -}}\n        {%- endgeneration -%}"
    folder = change_template(
        tokenizer_folder, tmp_path / "two", assistant, "{{- message['content'] -}}\n        {%- endgeneration -%}"
    )
    with pytest.raises(ContractError, match="would never stop"):
        open_chat_format(folder)


def test_no_template_at_all_is_refused(tokenizer_folder: Path, tmp_path: Path):
    folder = tmp_path / "three"
    shutil.copytree(tokenizer_folder, folder)
    (folder / "chat_template.jinja").unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert "chat_template" not in settings
    with pytest.raises(ContractError, match="no chat template with"):
        open_chat_format(folder)
