"""Reads one file as the stage does, or as `mill apply` does; prints what came of it and the memory that it took.

Run as a script, in a process of its own: `python row_bombs.py KIND FILE`. Kinds: jsonl, parquet, apply.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq  # its memory is part of the baseline

from modelmill.tasks.errors import InputError
from modelmill.tasks.ingest.config import Config
from modelmill.tasks.ingest.files import SourceFile
from modelmill.tasks.ingest.readers import read_files
from modelmill.tasks.text.row_files import read_rows


def peak_megabytes() -> float:
    """Most memory that this process had at once; unlike `ru_maxrss`, without that of the process it was forked from."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e3


def read(kind: str, path: Path, folder: Path) -> dict[str, Any]:
    if kind == "apply":
        try:
            return {"rows_out": sum(table.num_rows for table in read_rows(path, ["text"]))}
        except InputError as error:
            return {"error": str(error)}
    config = Config.model_validate({"sources": [{"kind": kind, "name": "rows", "paths": [str(path)]}]})
    result = read_files(config.sources[0], [SourceFile(path.name, str(path))], config, folder, "part")
    tables = [pq.read_table(folder / name) for name in result["dropped_shards"]]
    details = [row["detail"] for table in tables for row in table.slice(0, 3).to_pylist()]
    return result | {"details": details}


if __name__ == "__main__":
    before = peak_megabytes()
    with tempfile.TemporaryDirectory() as target:
        found = read(sys.argv[1], Path(sys.argv[2]), Path(target))
    sys.stdout.write(json.dumps(found | {"megabytes": peak_megabytes() - before}))
