"""A list of categories (YAML, two levels) → each category's name and definition; a file of labelled texts → its rows.

A list is a mapping of topics, each a mapping of categories to what belongs there. A category is written `topic/name`.
"""

import difflib
import gzip
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from modelmill.tasks.errors import InputError

SHIPPED = "shipped"
DATA = Path(__file__).parent / "data" / "categories.yaml"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


def labels_path(name_or_path: str) -> Path:
    """The shipped list, or the user's own.

    Raises:
        InputError: there is no such file.
    """
    path = DATA if name_or_path == SHIPPED else Path(name_or_path)
    if not path.is_file():
        raise InputError(f"categories.labels: no file {path}; give `{SHIPPED}` or the path of a .yaml file")
    return path


def load_labels(name_or_path: str) -> dict[str, dict[str, str]]:
    """Topic → its categories' names (without the topic) → what belongs there, in the list's order.

    Raises:
        InputError: there is no such file, or it is no list of categories.
    """
    path = labels_path(name_or_path)
    try:
        topics: Any = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except YAMLError as error:
        raise InputError(f"{path} is not YAML: {error}") from error
    if not isinstance(topics, dict) or not topics:
        raise InputError(f"{path}: expected a mapping of topics, each a mapping of categories to definitions")
    for topic, categories in topics.items():
        if not isinstance(categories, dict) or not categories:
            raise InputError(f"{path}: topic {topic!r} is no mapping of categories to definitions")
        for name in (topic, *categories):
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise InputError(f"{path}: {name!r} is no name; use small letters, digits, - and _")
    return {topic: {name: str(text) for name, text in listed.items()} for topic, listed in topics.items()}


def category_names(labels: dict[str, dict[str, str]]) -> list[str]:
    """`topic/name` of every category."""
    return [f"{topic}/{name}" for topic, categories in labels.items() for name in categories]


def check_labels(name_or_path: str, what: str, used: Iterable[str]) -> None:
    """Raise InputError where a name that a recipe or a file uses is neither a topic nor a category of the list."""
    labels = load_labels(name_or_path)
    known = {*labels, *category_names(labels)}
    for name in used:
        if name not in known:
            close = difflib.get_close_matches(name, sorted(known), n=3)
            hint = f"did you mean {', '.join(close)}?" if close else f"its topics are {', '.join(labels)}"
            raise InputError(f"{what}: {name!r} is not in the list of categories {labels_path(name_or_path)}; {hint}")


def reference_rows(path: Path) -> tuple[list[str], list[str]]:
    """Texts and labels of a .jsonl, .jsonl.gz or .parquet file with these two columns.

    Raises:
        InputError: a row lacks one of them.
    """
    if path.suffix == ".parquet":
        names = pq.read_schema(path).names
        if not {"text", "label"} <= set(names):
            raise InputError(f"{path} has the columns {', '.join(names)}; expected text and label")
        rows = pq.read_table(path, columns=["text", "label"]).to_pylist()
    else:
        content = path.read_bytes()
        lines = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8").split("\n")
        rows = [json.loads(line) for line in lines if line.strip()]
    for number, row in enumerate(rows):
        if not isinstance(row.get("text"), str) or not isinstance(row.get("label"), str):
            raise InputError(f"{path}, row {number + 1}: expected text and label, both strings")
    return [row["text"] for row in rows], [row["label"] for row in rows]
