"""YAML 1.2 text from outside → plain data of a bounded size."""

from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from modelmill.tasks.errors import RecipeError

YAML_BYTES = 256_000
"""The largest recipe; the longest one that is shipped has 8,000, and ruamel reads 50,000 a second."""
VALUES = 100_000
"""The most values of a recipe once every alias stands for a copy. Nine lines of aliases can stand for a billion."""


def parse_yaml(text: str, origin: str) -> Any:
    """Plain data of one YAML document.

    Raises:
        RecipeError: the text is no YAML, too long, too deep, or its aliases stand for too much.
    """
    if len(text) > YAML_BYTES:
        raise RecipeError(f"{origin} has {len(text):,} characters; a recipe has at most {YAML_BYTES:,}")
    try:
        data = YAML(typ="safe", pure=True).load(text)
        count = _count(data, {})
    except RecursionError as error:
        raise RecipeError(f"{origin} is nested too deeply, or an alias in it stands for itself") from error
    except (YAMLError, ValueError, OverflowError, TypeError) as error:
        raise RecipeError(f"{origin} is not readable as YAML: {_problem(error)}") from error
    if count > VALUES:
        raise RecipeError(f"{origin} stands for {count:,} values once its aliases are resolved; expected {VALUES:,}")
    return data


def _problem(error: Exception) -> str:
    """What is wrong and where, without a library's advice to its programmers."""
    if isinstance(error, MarkedYAMLError):
        words = " ".join(str(part) for part in (error.context, error.problem) if part)
        return f"{words} (line {error.problem_mark.line + 1})" if error.problem_mark else words
    return str(error).partition(";")[0]


def _count(value: Any, known: dict[int, int]) -> int:
    """Values in nested lists and mappings; what occurs many times is counted that often, and looked at once."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count(part, known) for part in parts)
    return known[id(value)]
