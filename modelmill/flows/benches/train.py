"""Names of cases → the engine beside transformers' Trainer and a plain loop on the same shapes, in turn, as a table."""

import datetime
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from rich.console import Console
from rich.table import Table

from modelmill.flows.benches.measured import check_place
from modelmill.flows.benches.tables import Row, machine
from modelmill.tasks.errors import MillError, RecipeError
from modelmill.tasks.files import write_output

_CHILD = "modelmill.flows.benches.train_case"
_OURS = ("modelmill", "modelmill, documents", "modelmill, compiled", "modelmill, documents compiled")
_PEERS = ("plain loop", "HF Trainer", "plain loop, compiled")
CASES = {
    "cpu": {
        "2m": (*_OURS, *_PEERS),
        "17m": (*_OURS, *_PEERS),
        "moe": ("modelmill", "modelmill, eager experts"),
    },
    "cuda": {size: (*_OURS, "modelmill, fp8 compiled", *_PEERS) for size in ("0.12b", "1b", "3b")}
    | {"moe-2.5b": ("modelmill", "modelmill, compiled", "modelmill, dense twin")},
}
"""For each device, the cases and who runs them; the first is what the others are compared with."""
LITGPT = ("litgpt", "litgpt, compiled")
"""Run beside the plain loop where a Python that has litgpt is given; the second is compiled."""


def bench_train(
    console: Console, cases: str | None, device: str, rounds: int, output: Path | None, litgpt: Path | None = None
) -> None:
    """Measure the cases (names with commas; all of the device without any), print a table, write JSON to `output`.

    litgpt: the Python of an environment with litgpt, which then runs the dense cases too.

    Raises:
        RecipeError: an unknown case, or no such Python.
        InputError: no folder for the output.
        MillError: nobody could run a case.
    """
    check_place(output)
    if litgpt and not litgpt.is_file():
        raise RecipeError(f"no Python {litgpt}; expected the one of an environment with litgpt (bin/python)")
    rows = []
    for case in chosen_cases(cases, device):
        console.print(f"measuring {case}", highlight=False)
        rows += measure(case, device, rounds, litgpt)
    console.print()
    console.print(table(rows, device))
    if output:
        versions = {name: metadata.version(name) for name in ("torch", "transformers")}
        figures = {
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "machine": machine() | versions,
            "rows": rows,
        }
        write_output(output, json.dumps(figures, indent=1) + "\n")


def chosen_cases(cases: str | None, device: str) -> list[str]:
    """The cases that are named; all of the device without names.

    Raises:
        RecipeError: one is unknown on this device.
    """
    known = list(CASES[device])
    names = known if cases is None else [name.strip() for name in cases.split(",") if name.strip()]
    if unknown := [name for name in names if name not in known]:
        raise RecipeError(f"unknown case {', '.join(map(repr, unknown))}; expected some of {','.join(known)}")
    return names


def measure(case: str, device: str, rounds: int, litgpt: Path | None = None) -> list[Row]:
    """A row for each trainer, medians over the rounds; in a round each has its turn in a process of its own.

    Raises:
        MillError: the engine itself failed.
    """
    trainers = CASES[device][case]
    if litgpt and _PEERS[0] in trainers:
        trainers += LITGPT
    found: dict[str, list[Row]] = {trainer: [] for trainer in trainers}
    notes: dict[str, str] = {}
    for _ in range(rounds):
        for trainer in trainers:
            if trainer not in notes:
                _run(case, trainer, device, litgpt, found, notes)
    if trainers[0] in notes:
        raise MillError(f"{case}: {notes[trainers[0]]}")
    ours = statistics.median(each["rate"] for each in found[trainers[0]])
    return [_row(case, trainer, found[trainer], notes.get(trainer, ""), ours) for trainer in trainers]


def _run(
    case: str, trainer: str, device: str, litgpt: Path | None, found: dict[str, list[Row]], notes: dict[str, str]
) -> None:
    """One turn; a trainer that fails is not asked again."""
    command = [sys.executable, "-m", _CHILD, case, trainer, "--device", device]
    command += ["--litgpt", str(litgpt)] if litgpt else []
    environment = os.environ | {"OMP_NUM_THREADS": "1"} if device == "cpu" else None
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, env=environment)
    if done.returncode:
        notes[trainer] = (done.stderr.strip().splitlines() or [f"ended with code {done.returncode}"])[-1]
        return
    found[trainer].append(json.loads(done.stdout.strip().splitlines()[-1]))


def _row(case: str, trainer: str, found: Sequence[Row], note: str, ours: float) -> Row:
    if not found:
        return {"case": case, "trainer": trainer, "note": note}
    rate = statistics.median(each["rate"] for each in found)
    spread = (max(each["rate"] for each in found) - min(each["rate"] for each in found)) / rate
    row = found[0] | {"rate": rate, "spread": spread, "of_ours": rate / ours, "rounds": len(found)}
    if "mfu" in row:
        row["mfu"] = statistics.median(each["mfu"] for each in found)
    return {"case": case, "trainer": trainer, "note": note} | row


def table(rows: Sequence[Row], device: str) -> Table:
    """One line a trainer."""
    unit = "tokens per CPU-second, one thread" if device == "cpu" else "tokens per second, one GPU"
    result = Table(box=None, pad_edge=False, title=unit, title_justify="left", title_style="bold")
    for name in ("case", "trainer", "rate", "of ours", "spread", "MFU", "memory", "first loss"):
        result.add_column(name, justify="left" if name in ("case", "trainer") else "right")
    result.add_column("note", ratio=1)
    for row in rows:
        figures = [""] * 6
        if "rate" in row:
            mfu = f"{row['mfu']:.1%}" if "mfu" in row else ""
            figures = [f"{row['rate']:,.0f}", f"{row['of_ours']:.2f}", f"{row['spread']:.0%}", mfu]
            figures += [f"{row['memory'] / 1e9:.2f} GB", f"{row['loss']:.4f}"]
        result.add_row(row["case"], row["trainer"], *figures, row["note"])
    return result
