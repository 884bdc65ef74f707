"""Suites: the reader takes the usual forms and refuses others by name; the shipped items are true."""

import builtins
import gzip
import importlib
import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest

from modelmill.tasks.errors import InputError
from modelmill.tasks.suites.make import NAME, suite_items
from modelmill.tasks.suites.reader import SuiteItem, load_suite, shipped_suites, suite_digest


def write_lines(path: Path, *rows: Any) -> Path:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_shipped_suite_is_balanced_and_documented() -> None:
    assert shipped_suites() == [NAME]
    suite = load_suite(NAME)
    assert (suite.name, suite.kind, len(suite.items)) == (NAME, "multiple_choice", suite.header["items"])
    assert {"licence", "how_made"} <= suite.header.keys()
    assert len({item.id for item in suite.items}) == len(suite.items)
    assert all(len(set(item.choices)) == 4 for item in suite.items)
    places = [sum(item.answer == place for item in suite.items) / len(suite.items) for place in range(4)]
    assert 0.2 < min(places) < max(places) < 0.3
    assert len(suite_digest(NAME)) == 64


def holds(item: SuiteItem, choice: str) -> bool:
    """Whether a choice is right, asked of the running Python."""
    subject = item.question.rstrip("?").split()[-1]
    match item.family:
        case "module-of-function" | "module-of-class":
            return hasattr(importlib.import_module(choice), subject)
        case "method-of-type":
            module, _, name = subject.rpartition(".")
            return hasattr(getattr(importlib.import_module(module or "builtins"), name), choice)
        case "base-of-exception":
            return getattr(builtins, subject).__bases__[0].__name__ == choice
        case _:
            module, _, name = subject.rpartition(".")
            return choice in inspect.signature(getattr(importlib.import_module(module), name)).parameters


def test_shipped_items_are_true() -> None:
    wrong = []
    for item in load_suite(NAME).items:
        try:
            if [holds(item, choice) for choice in item.choices].index(True) != item.answer:
                wrong.append(item)
        except (AttributeError, ValueError):  # a later Python release dropped the name
            wrong.append(item)
    assert len(wrong) <= 0.02 * 290, wrong


def test_maker_is_deterministic() -> None:
    items = list(suite_items())
    assert items == list(suite_items())
    assert all(re.fullmatch(r"[a-z-]+-\d{3}", item["id"]) for item in items)


def test_reads_the_usual_forms(tmp_path: Path) -> None:
    letter = {"subject": "algebra", "question": "1 + 1?", "choices": ["1", "2", "3"], "answer": "B"}
    suite = load_suite(write_lines(tmp_path / "mine.jsonl.gz", letter))
    assert (suite.name, suite.kind, suite.items[0].answer) == ("mine", "multiple_choice", 1)
    assert suite.items[0].text == "1 + 1?\n2"
    cloze = {"context": "The sky\u2028is", "continuation": "blue"}
    suite = load_suite(write_lines(tmp_path / "cloze.jsonl", cloze, {"prompt": "n?", "answer": 7}))
    assert [(item.id, item.answer) for item in suite.items] == [("0", "blue"), ("1", "7")]
    assert suite.kind == "generation"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"title": "x"}, "line 1 has none of the fields question"),
        ({"question": "x", "choices": ["a", "b"], "answer": "C"}, "answer 'C' is neither"),
        ({"question": "x", "choices": ["a", "b"]}, "answer None is neither"),
    ],
)
def test_refuses_what_is_no_item(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_suite(write_lines(tmp_path / "bad.jsonl", row))


def test_refuses_what_is_no_suite(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="shipped suite: python-library"):
        load_suite("no-such-suite")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(InputError, match="holds no items"):
        load_suite(tmp_path / "empty.jsonl")
    (tmp_path / "torn.jsonl").write_text('{"question": ')
    with pytest.raises(InputError, match="line 1"):
        load_suite(tmp_path / "torn.jsonl")
