import ast
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from modelmill.services import identity
from modelmill.services.identity import (
    Identity,
    canonical_code,
    code_digests,
    config_class,
    differences,
    external_digests,
    identity_config,
    library_versions,
    scores_alike,
    stage_identity,
)
from modelmill.tasks.catalog import STAGES
from modelmill.tasks.stage import StageConfig


class Inner(StageConfig):
    rate: float = 0.5
    cache: str = Field(default="/tmp/a", json_schema_extra={"placement": True})


class Outer(StageConfig):
    inner: Inner = Inner()
    many: tuple[Inner, ...] = (Inner(),)
    workers: int = Field(default=2, json_schema_extra={"placement": True})


def same_code(first: str, second: str) -> bool:
    return canonical_code(ast.parse(first)) == canonical_code(ast.parse(second))


@pytest.mark.parametrize(
    "edited",
    [
        "def f(x):\n    return x + 1  # a reason\n",
        'def f(x):\n    """What it does."""\n    return x + 1\n',
        '"""A module."""\n\n\ndef f( x ):\n\n    return (x\n     + 1)\n',
        'def f(x):\n    return x + 1\n"""A string under it."""\n',
    ],
)
def test_comments_docstrings_and_layout_are_no_part_of_the_code(edited: str) -> None:
    assert same_code("def f(x):\n    return x + 1\n", edited)


@pytest.mark.parametrize(
    "edited", ["def f(x):\n    return x + 2\n", "def f(y):\n    return y + 1\n", "def f(x): pass\n"]
)
def test_another_meaning_is_another_code(edited: str) -> None:
    assert not same_code("def f(x):\n    return x + 1\n", edited)


def test_a_string_that_is_a_value_counts() -> None:
    assert not same_code("x = 'a'", "x = 'b'")
    assert not same_code("f('a')", "f('b')")


def test_placement_never_enters_the_configuration_of_a_key() -> None:
    here = Outer(workers=2, inner=Inner(cache="/tmp/a"), many=(Inner(cache="/a"),))
    there = Outer(workers=64, inner=Inner(cache="/mnt/b"), many=(Inner(cache="/b"),))
    assert identity_config(here) == identity_config(there) == {"inner": {"rate": 0.5}, "many": [{"rate": 0.5}]}


def test_scores_hold_where_only_what_comes_after_them_differs() -> None:
    quality = {"positive": {"min_prose": 0.5}, "threshold": 0.1}

    def build(recipe: dict[str, Any], digest: str = "a") -> tuple[Identity, StageConfig]:
        config = config_class("curate").model_validate(recipe)
        return stage_identity(STAGES["curate"], config, [("unique", digest)]), config

    made, config = build({"quality": quality})
    manifest = json.loads(json.dumps({"identity": made.as_dict(), "recipe_part": config.model_dump(mode="json")}))
    changed = {"quality": quality | {"threshold": 0.5}, "validation_share": 0.3, "mixture": {"temperature": 2}}
    assert scores_alike(*build(changed), manifest)
    assert build(changed)[0].key != made.key
    assert not scores_alike(*build(changed, digest="b"), manifest)
    assert not scores_alike(*build({"quality": quality | {"folds": 3}}), manifest)
    assert not scores_alike(*build(changed), manifest | {"identity": manifest["identity"] | {"code": {}}})


@pytest.mark.parametrize(
    ("stage", "recipe", "name"),
    [
        ("clean", {"url": {"block_list_files": ["FILE"]}}, "list.txt"),
        ("curate", {"suites": [{"suite": "FILE", "ratio": 0.5}]}, "own.jsonl"),
        ("evaluate", {"tasks": [{"task": "FILE"}]}, "own.jsonl"),
        ("evaluate", {"tasks": [{"task": "FILE"}]}, "own.yaml"),
    ],
)
def test_a_file_of_a_recipe_counts_by_its_content_not_by_its_place(
    stage: str, recipe: dict[str, Any], name: str, tmp_path: Path
) -> None:
    def identity_of(folder: str, content: str) -> tuple[dict[str, Any], dict[str, str]]:
        path = tmp_path / folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
        config = config_class(stage).model_validate(json.loads(json.dumps(recipe).replace("FILE", str(path))))
        return identity_config(config), external_digests(STAGES[stage], config)

    assert identity_of("here", "task: a") == identity_of("there", "task: a")
    assert identity_of("here", "task: a") != identity_of("here", "task: b")


def test_code_is_what_the_entry_point_reaches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = tmp_path / "modelmill" / "tasks"
    for folder in ("", "toy", "toy/data", "other"):
        (tasks / folder).mkdir(exist_ok=True, parents=True)
    for package in (tasks.parent, tasks, tasks / "toy", tasks / "other"):
        (package / "__init__.py").touch()
    (tasks / "toy" / "stage.py").write_text(
        "from modelmill.tasks.toy import rules\n\ndef run(c):\n    from .late import x\n"
    )
    (tasks / "toy" / "rules.py").write_text("LIMIT = 3\n")
    (tasks / "toy" / "late.py").write_text("from ..shared import y as x\n")
    (tasks / "shared.py").write_text("y = 1\n")
    (tasks / "other" / "far.py").write_text("z = 1\n")
    (tasks / "toy" / "data" / "words.txt").write_text("one\n")
    monkeypatch.setattr(identity, "_ROOT", tasks.parent)

    before = code_digests("modelmill.tasks.toy.stage")
    assert {"modelmill.tasks.toy.rules", "modelmill.tasks.toy.late", "modelmill.tasks.shared"} < set(before)
    assert "modelmill/tasks/toy/data/words.txt" in before
    assert not any("other" in name for name in before)

    (tasks / "toy" / "data" / "words.txt").write_text("one\ntwo\n")
    changed = code_digests("modelmill.tasks.toy.stage")
    assert [name for name in before if before[name] != changed[name]] == ["modelmill/tasks/toy/data/words.txt"]


def test_a_build_tag_is_placement() -> None:
    assert "+" not in library_versions(("torch",))["torch"]


def test_differences_name_the_config_key_the_module_and_the_library() -> None:
    old = {
        "config": {"rules": {"min_words": 50, "max_words": 9}, "sources": [{"name": "a", "pages": 9}, {"name": "b"}]},
        "inputs": [["pages", "aaaaaaaaaa"]],
        "code": {"modelmill.tasks.clean.rules": "1"},
        "libraries": {"eldc": "0.4"},
        "external": {},
    }
    new = {
        "config": {"rules": {"min_words": 5, "max_words": 9}, "sources": [{"name": "a", "pages": 7}, {"name": "b"}]},
        "inputs": [["pages", "bbbbbbbbbb"]],
        "code": {"modelmill.tasks.clean.rules": "2"},
        "libraries": {"eldc": "0.5"},
        "external": {"suite": "1"},
    }
    assert differences(new, old) == [
        "config rules.min_words: 50 → 5",
        "config sources[0].pages: 9 → 7",
        "input pages: aaaaaaaa → bbbbbbbb",
        "code modelmill.tasks.clean.rules changed",
        "library eldc: 0.4 → 0.5",
        "outside file suite is new",
    ]
    assert differences(old, old) == []
