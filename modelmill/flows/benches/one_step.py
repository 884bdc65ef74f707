"""The name of a data step and its input file → its rows as JSON, in the process that `mill bench data` starts."""

import argparse
import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from modelmill.flows.benches.measured import Measured

# Each is a module beside this one; what its `measure` takes: a file of pages, a list of documents, or nothing.
STEPS = {
    "archives": "",
    "extraction": "pages",
    "languages": "",
    "rules": "documents",
    "personal_data": "documents",
    "safety": "documents",
    "dedup": "documents",
    "tokens": "documents",
}


def measured(step: str, source: Path | None) -> list[Measured]:
    """What the step's bench says of its input."""
    module: Any = importlib.import_module(f"{__package__}.{step}")
    if source is None:
        return module.measure()
    if STEPS[step] == "pages":
        return module.measure(source)
    return module.measure(pq.read_table(source)["text"].to_pylist())


def main() -> None:
    """Write the rows of one step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("answer", type=Path)
    parser.add_argument("source", type=Path, nargs="?")
    arguments = parser.parse_args()
    rows = [dataclasses.asdict(row) for row in measured(arguments.step, arguments.source)]
    arguments.answer.write_text(json.dumps(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
