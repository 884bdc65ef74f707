"""What a test reads of the stage's output."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from modelmill.tasks.files import file_digest


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """All rows of a folder's Parquet files, in order."""
    tables = [pq.read_table(path) for path in sorted(folder.glob("*.parquet"))]
    return pa.concat_tables(tables).to_pylist() if tables else []


def digests_of(folder: Path) -> dict[str, str]:
    """File name → digest."""
    return {path.name: file_digest(path) for path in sorted(folder.iterdir())}


def urls_of(output: Path) -> list[str]:
    """Sorted URLs of the kept pages."""
    return sorted(row["url"] for row in rows_of(output / "pages"))


def reasons_of(output: Path) -> dict[str, str]:
    """URL → reason of the dropped ones."""
    return {row["url"]: row["reason"] for row in rows_of(output / "dropped")}
