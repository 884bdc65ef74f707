"""Files of rows that are small, or have a line without an end: what they cost is bounded, and what is good is kept."""

import gzip
import json
import os
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.tasks.ingest.archive_files import gzipped, warc_header, warc_record

ROOT = Path(__file__).parents[2]
ROW = b'{"text": "A row to keep."}\n'
LINE_BYTES = 400_000_000


def read(kind: str, path: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.reliability.row_bombs", kind, str(path)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def long_line(path: Path) -> Path:
    """A row, a line of 400 MB (a hole in the file, which takes no disk), and a row."""
    with path.open("wb") as file:
        file.write(ROW + b'{"text": "')
        file.truncate(file.tell() + LINE_BYTES)
        file.seek(0, os.SEEK_END)
        file.write(b'"}\n' + ROW)
    return path


def long_line_in_little(path: Path) -> Path:
    """The same in two megabytes of gzip."""
    piece = gzip.compress(b"x" * 4_000_000, 1)
    path.write_bytes(
        gzip.compress(ROW + b'{"text": "') + piece * (LINE_BYTES // 4_000_000) + gzip.compress(b'"}\n' + ROW)
    )
    assert path.stat().st_size < 3_000_000
    return path


@pytest.mark.parametrize("made", [long_line, long_line_in_little])
def test_a_line_of_400_megabytes_is_dropped_by_its_number_in_little_memory(tmp_path, made):
    found = read("jsonl", made(tmp_path / "rows.jsonl"))
    assert found["rows_out"] == 2 and found["dropped"] == {"too_large": 1}
    assert found["details"] == ["line 2 has more than 32,000,000 bytes"]
    assert found["megabytes"] < 200


@pytest.mark.parametrize("made", [long_line, long_line_in_little])
def test_apply_names_such_a_line(tmp_path, made):
    suffix = ".jsonl" if made is long_line else ".jsonl.gz"
    found = read("apply", made(tmp_path / f"rows{suffix}"))
    assert "line 2 has more than 64,000,000 bytes" in found["error"]
    assert found["megabytes"] < 300


def test_rows_that_no_memory_could_hold_as_objects_are_dropped_and_the_others_read(tmp_path):
    """Without a limit, the lists of 30 MB take a gigabyte; the brackets overflow the parser's stack."""
    lists = b'{"text": [' + b"[]," * 10_000_000 + b"[]]}\n"
    deep = b'{"text": ' + b"[" * 900_000 + b"]" * 900_000 + b"}\n"
    digits = b'{"id": ' + b"1" * 100_000 + b', "text": "x"}\n'
    huge = b'{"id": 1e400, "text": "A row to keep, too."}\n'
    (tmp_path / "rows.jsonl").write_bytes(ROW + lists + deep + digits + huge + b"null\n" + ROW)
    found = read("jsonl", tmp_path / "rows.jsonl")
    assert found["rows_out"] == 3
    assert found["dropped"] == {"too_large": 1, "invalid_row": 3}
    assert found["megabytes"] < 200


def test_a_record_of_400_megabytes_in_an_archive_of_two_is_dropped_in_little_memory(tmp_path):
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n"
    member = zlib.compressobj(1, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    parts = [member.compress(warc_header(1, len(answer) + LINE_BYTES) + answer)]
    parts += [member.compress(b"x" * 4_000_000) for _ in range(LINE_BYTES // 4_000_000)]
    parts += [member.compress(b"\r\n\r\n"), member.flush()]
    path = tmp_path / "pages.warc.gz"
    path.write_bytes(gzipped([warc_record(0)]) + b"".join(parts) + gzipped([warc_record(2)]))
    found = read("warc", path)
    assert found["rows_out"] == 2 and found["dropped"] == {"too_large": 1}
    assert found["megabytes"] < 200


def test_dropped_rows_do_not_pile_up_in_memory(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(gzip.compress(b"0\n" * 120_000 + ROW))
    found = read("jsonl", tmp_path / "rows.jsonl")
    assert found["rows_in"] == 120_001 and found["rows_out"] == 1
    assert len(found["dropped_shards"]) == 3
    assert found["megabytes"] < 200


@pytest.mark.parametrize(("kind", "encoding"), [("parquet", "dictionary"), ("apply", "DELTA_BYTE_ARRAY")])
def test_a_small_parquet_file_that_stands_for_gigabytes_is_read_in_pieces(tmp_path, kind, encoding):
    """600 rows of a megabyte in a few kilobytes: one batch of them takes two gigabytes on its way to a shard."""
    text = pa.array(["x" * 1_000_000])
    path = tmp_path / "rows.parquet"
    if encoding == "dictionary":
        rows = pa.DictionaryArray.from_arrays(pa.array([0] * 600, pa.int32()), text)
        pq.write_table(pa.table({"text": rows}), path, compression="zstd", store_schema=False)
    else:
        rows = pa.table({"text": text.take(pa.array([0] * 600, pa.int32()))})
        pq.write_table(rows, path, compression="zstd", use_dictionary=False, column_encoding={"text": encoding})
    assert path.stat().st_size < 100_000
    found = read(kind, path)
    assert found["rows_out"] == 600
    assert found["megabytes"] < 900  # the allocator returns memory when it has the time to
