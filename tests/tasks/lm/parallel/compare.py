"""What several processes wrote beside what one did."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from modelmill.tasks.lm.parallel.layout import Layout


def place(run: str, layout: Layout) -> str:
    """The folder of a run on a layout."""
    return f"{run}-{place_of(layout)}"


def place_of(part: str | Layout) -> str | None:
    """A layout's name, in folders and names of tests."""
    return None if isinstance(part, str) else "-".join(part.model_dump(exclude_defaults=True))


def near_curve(curve: list[tuple[float, ...]]) -> list[Any]:
    return [pytest.approx(step, rel=1e-5) for step in curve]


def values(path: Path) -> dict[str, Any]:
    """All values in a JSON file or one of JSON lines, by where they stand."""
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    return {f"{number}{name}": value for number, line in enumerate(lines) for name, value in leaves(json.loads(line))}


def leaves(value: Any, name: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [leaf for key, each in value.items() for leaf in leaves(each, f"{name}.{key}")]
    if isinstance(value, list):
        return [leaf for number, each in enumerate(value) for leaf in leaves(each, f"{name}.{number}")]
    return [(name, value)]


def near(found: dict[str, Any]) -> dict[str, Any]:
    return {name: pytest.approx(v, rel=1e-5) if isinstance(v, float) else v for name, v in found.items()}


def same_tensors(many: Path, alone: Path) -> None:
    tensors, expected = load_file(many), load_file(alone)
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        assert (tensor - expected[name]).abs().mean() < 1e-5, name
