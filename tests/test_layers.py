"""Imports point one way: flows → services → tasks, and tasks know neither Prefect, Ray nor MLflow."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import modelmill

ROOT = Path(modelmill.__file__).parent
FORBIDDEN = {
    "tasks": ("prefect", "ray", "mlflow", "modelmill.services", "modelmill.flows"),
    "services": ("prefect", "modelmill.flows"),
}


def imported_names(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


@pytest.mark.parametrize("layer", FORBIDDEN)
def test_a_layer_imports_only_what_lies_below_it(layer: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sorted((ROOT / layer).rglob("*.py"))
        for name in sorted(imported_names(path))
        if any(name == forbidden or name.startswith(forbidden + ".") for forbidden in FORBIDDEN[layer])
    ]
    assert wrong == []


def test_every_module_says_what_goes_in_and_out() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in sorted(ROOT.rglob("*.py"))
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert silent == []


def test_the_page_about_the_code_is_what_the_code_says() -> None:
    done = subprocess.run([sys.executable, "infra/tree.py", "--check"], cwd=ROOT.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
