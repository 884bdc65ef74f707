"""A function and the work that it does → its rate per CPU-second, comparable between tools in one run."""

import resource
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from modelmill.tasks.errors import InputError


@dataclass(frozen=True)
class Measured:
    """One line of a table: what one tool did with the input that its peers had too.

    `rate` is in `unit` (such as documents/s) per CPU-second, the median of the repeats; `quality` has named figures.
    """

    step: str
    tool: str
    rate: float | None = None
    unit: str = ""
    quality: dict[str, float] = field(default_factory=dict)
    note: str = ""


def peer(step: str, tool: str, package: str, measure: Callable[[], Measured]) -> Measured:
    """What a peer did, or why there is no figure: it is not installed, or it failed; our own figures go on."""
    try:
        return measure()
    except ImportError:
        return Measured(step, tool, note=f"not installed: pip install {package}")
    except Exception as error:  # noqa: BLE001 - other people's code, under versions that it may not know
        return Measured(step, tool, note=f"failed: {type(error).__name__}: {error}")


def cpu_seconds(function: Callable[[], object], repeats: int = 3) -> float:
    """Median CPU time of a call in seconds, of all threads and of the child processes that it waited for.

    The first call, which compiles, loads and fills caches, is not counted.
    """
    function()
    spent = []
    for _ in range(repeats):
        before = _cpu_time()
        function()
        spent.append(_cpu_time() - before)
    return statistics.median(spent)


def _cpu_time() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def check_place(output: Path | None) -> None:
    """Refuse, before minutes of measuring, a file that could not be written.

    Raises:
        InputError: its folder is not there.
    """
    if output and not output.parent.is_dir():
        raise InputError(f"no folder {output.parent} to write {output.name} in; make it, or name another file")
