"""pyproject.toml → requirements.lock (what a user installs) and requirements-dev.lock (what tests need besides)."""

import os
import re
import subprocess
import sys
from pathlib import Path

from install import ROOT, pip_settings


def main() -> None:
    """Resolve both sets anew, for the oldest Python that is supported."""
    product = resolved("cpu")
    development = resolved("cpu", "dev")
    write("requirements.lock", product)
    write("requirements-dev.lock", [line for line in development if line not in product])


def resolved(*extras: str) -> list[str]:
    """Sorted `name==version` lines of the project with these extras."""
    arguments = [argument for extra in extras for argument in ("--extra", extra)]
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--python-version", "3.11", "--no-header"]
    command += ["--no-annotate", *arguments, "pyproject.toml"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | pip_settings(), stdout=subprocess.PIPE, text=True, check=True
    )
    lines = done.stdout.splitlines()
    # Any other line would say where packages come from.
    # `2.13.0+cpu` names one build of one release; the lock names the release.
    return sorted(re.sub(r"\+\S+$", "", line) for line in lines if "==" in line)


def write(name: str, lines: list[str]) -> None:
    """Write one lock file."""
    Path(ROOT / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
