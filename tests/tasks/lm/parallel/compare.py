"""What several processes wrote beside what one did."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file


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
