"""`mill` in processes forked from one that has imported the libraries, for tests that start it many times.

This module imports nothing of Modelmill, so that a forked process can use another copy of its code.
"""

import multiprocessing
import os
import sys
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
# The libraries of every run whose imports take longest.
_LIBRARIES = [
    "prefect.flow_engine", "prefect.task_engine", "prefect.server.schemas.core", "prefect.client.orchestration",
    "mlflow", "mlflow.store.tracking.sqlalchemy_store", "numba", "pyarrow.parquet", "matplotlib.pyplot",
]  # fmt: skip


def import_before(*libraries: str) -> None:
    """Have other libraries imported too, if no process was forked yet."""
    _CONTEXT.set_forkserver_preload(_LIBRARIES + list(libraries))


import_before()


def context() -> ForkServerContext:
    """To start other functions in such processes."""
    return _CONTEXT


def start_mill(
    code: Path, arguments: list[str], environment: dict[str, str], output: Path, errors: Path
) -> BaseProcess:
    """Start `mill ARGUMENTS` in a session of its own, in the folder `code`, whose package `modelmill` it uses.

    What it prints is added to the files `output` and `errors`; `environment` is added to that of the tests.
    """
    process = _CONTEXT.Process(target=_mill, args=(code, arguments, os.environ | environment, output, errors))
    process.start()
    return process


def _mill(code: Path, arguments: list[str], environment: dict[str, str], output: Path, errors: Path) -> None:
    """Run in a process whose environment is that of the server from which it was forked, of an earlier test."""
    os.setsid()
    for number, path in ((1, output), (2, errors)):
        with path.open("ab") as file:
            os.dup2(file.fileno(), number)
    os.environ.clear()
    os.environ |= environment
    os.chdir(code)
    sys.path.insert(0, str(code))
    sys.argv = ["mill", *arguments]
    from modelmill.flows.cli import main

    main()
