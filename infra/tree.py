"""First docstring lines of all modules → the tree in docs/code.md; `--check` only compares."""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "code.md"
INTRODUCTION = """# The code

Imports point one way: `flows` → `services` → `tasks`. Each line below is the first line of a module
(`make tree` writes this page, and a test compares it).

"""


def tree() -> str:
    """The page as text."""
    lines: list[str] = []
    for folder in _folders(ROOT / "modelmill"):
        modules = sorted(path for path in folder.glob("*.py"))
        place = folder.relative_to(ROOT).as_posix()
        heading = _summary(folder / "__init__.py") if (folder / "__init__.py").exists() else ""
        lines += [f"## {place}/", "", heading, ""] if heading else [f"## {place}/", ""]
        lines += [f"- `{path.name}` {_summary(path)}" for path in modules if path.name != "__init__.py"]
        lines.append("")
    return INTRODUCTION + "\n".join(lines).rstrip() + "\n"


def _folders(top: Path) -> list[Path]:
    # The three layers from the top down, as a reader would go.
    order = {"flows": 0, "services": 1, "tasks": 2}
    folders = {path.parent for path in top.rglob("*.py")}
    return sorted(folders, key=lambda folder: (order.get((*folder.relative_to(top).parts, "")[0], -1), folder))


def _summary(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.split("\n\n")[0].replace("\n", " ")


def main() -> None:
    """Write the page, or with `--check` fail when it is not what the code says."""
    if "--check" in sys.argv:
        sys.exit(0 if PAGE.read_text(encoding="utf-8") == tree() else "docs/code.md is out of date: run `make tree`")
    PAGE.write_text(tree(), encoding="utf-8")


if __name__ == "__main__":
    main()
