"""One step of the line and a user's own file → a file of kept rows, one of dropped rows, and the counts."""

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from modelmill.flows.apply_settings import DROPPING, OPTIONAL, REQUIRED, STEPS, TokenizerChoice, step_settings
from modelmill.flows.apply_settings import step_config as step_config
from modelmill.flows.apply_workers import Workers
from modelmill.flows.environment import mill_home
from modelmill.services.scratch import remove_if_killed
from modelmill.tasks.errors import InputError, RecipeError
from modelmill.tasks.files import named_output
from modelmill.tasks.text.row_files import (
    JSONL_SUFFIXES,
    PARQUET_SUFFIXES,
    RowWriter,
    file_suffix,
    read_rows,
    row_writer,
)

WARC_SUFFIXES = (".warc", ".warc.gz")
ROW_SUFFIXES = (*JSONL_SUFFIXES, *PARQUET_SUFFIXES)
# Rows, and those that were refused before the step; rows kept, and rows dropped.
Batch = tuple[pa.Table, pa.Table | None]
Tables = tuple[pa.Table, pa.Table | None]


@dataclass
class ApplyReport:
    """What a step did with a file. `dropped` maps a reason to a number of rows."""

    step: str
    output: str
    dropped_output: str | None
    rows_in: int = 0
    rows_out: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def rows_per_second(self) -> float:
        """Rows read in a second of wall time."""
        return self.rows_in / self.seconds if self.seconds else 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"rows_per_second": self.rows_per_second}


def apply_step(
    step: str,
    input_path: Path,
    output_path: Path,
    config: dict[str, Any] | None = None,
    workers: int = 1,
    on_progress: Callable[[int], None] | None = None,
) -> ApplyReport:
    """Run one step on a file; rows keep their order and their other columns, whatever the number of workers.

    config: the step's part of a recipe (see `step_config`); for tokenize `{"tokenizer": folder}`.
    on_progress: called with the number of rows read so far.

    Raises:
        RecipeError: an unknown step or an unknown key in `config`.
        InputError: a missing file or column, another suffix, a row that cannot be read, or no rows at all.
    """
    if step not in STEPS:
        raise RecipeError(f"unknown step {step!r}; expected one of {', '.join(STEPS)}")
    settings = step_settings(step, config or {})
    dropped_path = _dropped_path(output_path) if step in DROPPING else None
    file_suffix(output_path, ROW_SUFFIXES)
    if input_path.resolve() in {path.resolve() for path in (output_path, dropped_path) if path}:
        raise InputError(f"{input_path} would be overwritten by the output; name another output")
    report = ApplyReport(step, str(output_path), str(dropped_path) if dropped_path else None)
    started = time.monotonic()
    with ExitStack() as stack:
        batches = _counted(_batches(step, input_path, settings), report, on_progress)
        pool = stack.enter_context(Workers(workers))
        if step == "dedup":
            results = _deduplicated(batches, settings, pool, stack.enter_context(_scratch(output_path)))
        else:
            results = pool.stream(_STEP_FUNCTIONS[step], ((*batch, settings) for batch in batches))
        kept_writer = stack.enter_context(_Output(output_path))
        dropped_writer = stack.enter_context(_Output(dropped_path)) if dropped_path else None
        _write(results, kept_writer, dropped_writer, report)
        if report.rows_in == 0:
            raise InputError(f"{input_path} holds no rows")
    report.seconds = time.monotonic() - started
    return report


def _write(results: Iterable[Tables], kept: RowWriter, dropped: RowWriter | None, report: ApplyReport) -> None:
    for kept_rows, dropped_rows in results:
        kept.write(kept_rows)
        report.rows_out += kept_rows.num_rows
        if dropped and dropped_rows is not None:
            dropped.write(dropped_rows)
            _count_reasons(dropped_rows, report)


def _count_reasons(dropped: pa.Table, report: ApplyReport) -> None:
    for entry in dropped["reason"].value_counts().to_pylist():
        report.dropped[entry["values"]] = report.dropped.get(entry["values"], 0) + entry["counts"]


def _dropped_path(output: Path) -> Path:
    suffix = file_suffix(output, ROW_SUFFIXES)
    return output.with_name(f"{output.name.removesuffix(suffix)}.dropped{suffix}")


class _Output:
    """A file of rows that appears whole, or not at all."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stack = ExitStack()

    def __enter__(self) -> RowWriter:
        temporary = self._stack.enter_context(named_output(self._path))
        remove_if_killed(mill_home(), temporary)
        return self._stack.enter_context(row_writer(temporary, file_suffix(self._path, ROW_SUFFIXES)))

    def __exit__(self, *details: Any) -> None:
        self._stack.__exit__(*details)


def _batches(step: str, path: Path, settings: Any) -> Iterator[Batch]:
    """Rows of the input, with those that the reader of an archive refused."""
    if step == "extract" and any(path.name.endswith(suffix) for suffix in WARC_SUFFIXES):
        from modelmill.tasks.ingest.extract import archive_rows

        yield from archive_rows(str(path), settings)
        return
    if step == "extract":
        file_suffix(path, (*ROW_SUFFIXES, *WARC_SUFFIXES))
    for table in read_rows(path, REQUIRED[step], OPTIONAL.get(step, ())):
        yield table, None


def _counted(
    batches: Iterator[Batch], report: ApplyReport, on_progress: Callable[[int], None] | None
) -> Iterator[Batch]:
    for rows, refused in batches:
        report.rows_in += rows.num_rows + (refused.num_rows if refused is not None else 0)
        if on_progress:
            on_progress(report.rows_in)
        yield rows, refused


def _extract(rows: pa.Table, refused: pa.Table | None, settings: Any) -> Tables:
    from modelmill.tasks.ingest.extract import extract_rows

    kept, dropped = extract_rows(rows, settings)
    return kept, dropped if refused is None else pa.concat_tables([refused, dropped])


def _language(rows: pa.Table, refused: None, settings: Any) -> Tables:
    from modelmill.tasks.clean.language import with_language

    return with_language(rows), None


def _clean(rows: pa.Table, refused: None, settings: Any) -> Tables:
    from modelmill.tasks.clean.rules import clean_rows

    kept, dropped = clean_rows(rows, settings)
    return kept, dropped


def _tokenize(rows: pa.Table, refused: None, settings: TokenizerChoice) -> Tables:
    from modelmill.tasks.tokenize.encode import encode_rows

    return encode_rows(rows, settings.tokenizer), None


_STEP_FUNCTIONS: dict[str, Callable[..., Tables]] = {
    "extract": _extract,
    "language": _language,
    "clean": _clean,
    "tokenize": _tokenize,
}


def _deduplicated(batches: Iterator[Batch], settings: Any, workers: Workers, folder: Path) -> Iterator[Tables]:
    """Duplicates are found among all rows: they are laid down as shards first."""
    from modelmill.tasks.dedup.job import Job, numbered_shards
    from modelmill.tasks.dedup.pipeline import decide
    from modelmill.tasks.text.shards import write_shard

    paths = []
    for number, (rows, _) in enumerate(batches):
        paths.append(folder / f"part-{number:06d}.parquet")
        write_shard(rows, paths[-1])
    job = Job(numbered_shards(paths, settings.rows_per_call, workers.num_workers), settings, workers, folder / "work")
    if job.shards:
        decisions = decide(job)
        yield from workers.stream(_unique_rows, ((shard, decisions, settings) for shard in job.shards))


def _unique_rows(shard: Any, decisions: Any, settings: Any) -> Tables:
    from modelmill.tasks.dedup.shards import remaining

    rest = remaining(shard, decisions, settings)
    return rest.table, rest.dropped


@contextmanager
def _scratch(output: Path) -> Iterator[Path]:
    """A folder beside the output, where there is room for a copy of the rows."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder:
        remove_if_killed(mill_home(), Path(folder))
        yield Path(folder)
