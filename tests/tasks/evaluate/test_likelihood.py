"""Texts of one's own: scored whole, document by document, beside the domains."""

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer

from modelmill.tasks.errors import InputError, RecipeError
from modelmill.tasks.evaluate.config import BitsPerByte, Config, HeldOutText, external_digests
from modelmill.tasks.evaluate.likelihood import bits_per_byte, read_documents
from modelmill.tasks.stage import Artifact

DOCUMENTS = ["the list is sorted", "a dictionary maps keys to values, 中文", "return"]


def jsonl(folder: Path) -> Path:
    path = folder / "texts.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(json.dumps({"text": text}) for text in DOCUMENTS).encode()))
    return path


def test_the_bits_of_a_text_are_those_of_each_document_alone(line: dict[str, list[Artifact]], tmp_path: Path) -> None:
    model, tokens = line["checkpoint"][0].path / "model", line["tokens"][0].path
    text = HeldOutText(name="mine", path=str(jsonl(tmp_path)))
    found = bits_per_byte(model, tokens, 64, 128, [text], "cpu")
    assert set(found) == {"all", "web", "code", "mine"}
    assert found["all"] == bits_per_byte(model, tokens, 64, 128, [], "cpu")["all"]
    assert found["mine"] == pytest.approx(alone(model, tokens), abs=2e-5)


def alone(model: Path, tokens: Path) -> float:
    """Bits per byte with each document in a call of its own."""
    network: Any = AutoModelForCausalLM.from_pretrained(model).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(tokens / "tokenizer")
    begin, end = tokenizer.convert_tokens_to_ids(["<|begin_of_text|>", "<|end_of_text|>"])
    nats = 0.0
    for text in DOCUMENTS:
        ids = torch.tensor([begin, *tokenizer(text, add_special_tokens=False)["input_ids"], end])
        with torch.inference_mode():
            logprobs = network(ids[None]).logits[0].log_softmax(-1)
        nats -= float(logprobs[torch.arange(len(ids) - 1), ids[1:]].sum())
    return nats / math.log(2) / sum(len(text.encode()) for text in DOCUMENTS)


def test_a_plain_text_is_one_document(tmp_path: Path) -> None:
    path = tmp_path / "wiki.txt"
    path.write_text("one\n\ntwo\n")
    assert read_documents(path) == ["one\n\ntwo\n"] and read_documents(jsonl(tmp_path)) == DOCUMENTS


def test_the_content_of_a_text_enters_the_key_and_its_place_does_not(tmp_path: Path) -> None:
    path = tmp_path / "wiki.txt"
    path.write_text("one")
    config = Config(bits_per_byte=BitsPerByte(texts=(HeldOutText(name="wiki", path=str(path)),)), tasks=())
    before = external_digests(config)
    assert list(before) == ["text wiki"]
    path.write_text("two")
    assert external_digests(config) != before
    path.unlink()
    with pytest.raises(InputError, match="found no file"):
        external_digests(config)


def test_names_that_mean_two_things_are_refused(line: dict[str, list[Artifact]], tmp_path: Path) -> None:
    text = HeldOutText(name="web", path=str(jsonl(tmp_path)))
    with pytest.raises(RecipeError, match=r"\['web'\] are domains"):
        bits_per_byte(line["checkpoint"][0].path / "model", line["tokens"][0].path, 64, 128, [text], "cpu")
    with pytest.raises(ValidationError, match="different names"):
        BitsPerByte(texts=(text, text))
    with pytest.raises(ValidationError, match=r"ends in \.txt"):
        HeldOutText(name="web", path="web.html")
