"""A suite's name or JSONL file → its items, as the evaluation asks them and as decontamination looks for them.

A suite is a JSON-lines file, one item a line, plain or gzip, with the usual field names of public test sets:
`question` (or `context`, `prompt`, `text`), optionally `choices` with `answer` (an index or a letter), or `answer`
(or `continuation`) as text. Beside a shipped suite `x.jsonl` lies `x.json`: its licence, and how it was made.
"""

import gzip
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelmill.tasks.errors import InputError
from modelmill.tasks.files import file_digest, read_json

DATA = Path(__file__).parent / "data"
SUFFIXES = (".jsonl", ".jsonl.gz")
QUESTION_FIELDS = ("question", "context", "prompt", "text")
ANSWER_FIELDS = ("answer", "continuation", "target")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class SuiteItem:
    """One question. `answer` is the index of the right choice, or the expected text where there are no choices."""

    id: str
    question: str
    choices: tuple[str, ...]
    answer: int | str
    family: str

    @property
    def text(self) -> str:
        """What a contaminated document would hold: the question, and the right answer on a line of its own.

        Not the wrong choices: those of MMLU that are lists of numbers ("1,2,3", "1,2,4", ...) occur in many a document.
        """
        answer = self.choices[self.answer] if isinstance(self.answer, int) else self.answer
        return f"{self.question}\n{answer}".strip()


@dataclass(frozen=True)
class Suite:
    """A suite: `kind` is "multiple_choice" or "generation"; `header` tells licence and origin (may be empty)."""

    name: str
    kind: str
    path: Path
    items: tuple[SuiteItem, ...] = field(repr=False)
    header: dict[str, Any] = field(repr=False, hash=False)


def shipped_suites() -> list[str]:
    """Names of the suites that come with Modelmill."""
    return sorted(path.name.removesuffix(".jsonl") for path in DATA.glob("*.jsonl"))


def suite_path(name_or_path: str | Path) -> Path:
    """The file of a shipped suite (by name) or of the user's own (by path).

    Raises:
        InputError: there is no such suite.
    """
    path = Path(name_or_path)
    if not path.name.endswith(SUFFIXES):
        path = DATA / f"{name_or_path}.jsonl"
    if not path.is_file():
        raise InputError(
            f"no evaluation suite {str(name_or_path)!r}; give the path of a .jsonl file, "
            f"or the name of a shipped suite: {', '.join(shipped_suites())}"
        )
    return path


def question_prompt(question: str) -> str:
    """What stands before a choice or an answer; the same for every suite."""
    return f"Question: {question}\nAnswer:"


def suite_name(path: Path) -> str:
    """A suite's name: its file name without the suffix."""
    return path.name.removesuffix(".gz").removesuffix(".jsonl")


def suite_digest(name_or_path: str | Path) -> str:
    """SHA-256 of a suite's items: two stages that name a suite meant the same one if these agree."""
    return file_digest(suite_path(name_or_path))


def load_suite(name_or_path: str | Path) -> Suite:
    """Read a whole suite.

    Raises:
        InputError: there is no such suite, or a line is not an item.
    """
    path = suite_path(name_or_path)
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    lines = content.decode("utf-8").split("\n")  # not splitlines: JSON text may hold U+2028
    items = tuple(_item(line, number, path) for number, line in enumerate(lines) if line.strip())
    if not items:
        raise InputError(f"{path} holds no items; expected one JSON object a line")
    header = path.with_name(f"{suite_name(path)}.json")
    kind = "multiple_choice" if all(item.choices for item in items) else "generation"
    return Suite(suite_name(path), kind, path, items, read_json(header) if header.is_file() else {})


def _item(line: str, number: int, path: Path) -> SuiteItem:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {number + 1}: {error}; expected one JSON object a line") from error
    question = _first(row, QUESTION_FIELDS)
    if question is None:
        raise InputError(f"{path}, line {number + 1} has none of the fields {', '.join(QUESTION_FIELDS)}")
    choices = tuple(str(choice) for choice in row.get("choices", ()))
    answer = _first(row, ANSWER_FIELDS)
    if choices:
        answer = _choice_index(answer, choices, f"{path}, line {number + 1}")
    elif not isinstance(answer, str):
        answer = "" if answer is None else json.dumps(answer, ensure_ascii=False)
    return SuiteItem(str(row.get("id", number)), str(question), choices, answer, str(row.get("family", "")))


def _first(row: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)


def _choice_index(answer: Any, choices: tuple[str, ...], where: str) -> int:
    if isinstance(answer, str) and len(answer) == 1 and answer in LETTERS[: len(choices)]:
        return LETTERS.index(answer)
    if isinstance(answer, int) and 0 <= answer < len(choices):
        return answer
    raise InputError(f"{where}: answer {answer!r} is neither the index nor the letter of one of {len(choices)} choices")
