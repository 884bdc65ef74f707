"""Shapes of models → how long training stands still for a training state, beside torch's own ways of writing one.

Every round is a step with nothing beside it, the call that saves, and a step beside what is written in the background.
Wall times: run it on a quiet machine. Training has one thread.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch.distributed.checkpoint.state_dict_saver import async_save
from transformers import PreTrainedModel

from modelmill.flows.benches.measured import Measured, check_place
from modelmill.flows.benches.tables import show_measured
from modelmill.flows.benches.train_case import CASES, Case, RandomBatches
from modelmill.tasks.lm.engine import train
from modelmill.tasks.lm.model import build_model
from modelmill.tasks.lm.optim import build_optimizer
from modelmill.tasks.lm.parallel.ranks import Ranks
from modelmill.tasks.lm.parallel.states import open_states
from modelmill.tasks.lm.settings import OptimizerConfig, TrainSettings

Save = Callable[[int], Callable[[], object]]
"""The number of a state → saves it; what is returned waits until it is written."""
_SETTINGS = TrainSettings(num_threads=1, log_every_steps=1)


def measure(cases: Sequence[Case] = (CASES["2m"], CASES["17m"]), rounds: int = 5) -> list[Measured]:
    """Medians over the rounds. `step_ms`: a step alone; `pause_ms`: the call that saves; `pause_of_a_step`: one by the
    other; `step_beside`: a step while the state is written, by a step alone.
    """
    ways = {"modelmill": _in_background, "torch, async_save": _by_async_save, "torch.save, in line": _in_line}
    return [_measured(case, tool, way, rounds) for case in cases for tool, way in ways.items()]


def _measured(case: Case, tool: str, way: Callable[..., Any], rounds: int) -> Measured:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model = build_model(case.shape, seed=0, device="cpu")
    optimizer = build_optimizer(model, OptimizerConfig())
    step = _steps(case, model, optimizer)
    found: list[tuple[float, float, float]] = []
    with tempfile.TemporaryDirectory(prefix="mill-bench-") as folder, way(Path(folder), model, optimizer) as save:
        step()  # gives the optimiser its moments
        for number in range(rounds + 1):
            alone, _ = _timed(step)
            pause, wait = _timed(lambda number=number: save(number))
            beside, _ = _timed(step)
            wait()
            found.append((alone, pause, beside))
    torch.set_num_threads(threads)
    alone, pause, beside = (statistics.median(times) for times in zip(*found[1:], strict=True))
    quality = {
        "step_ms": 1000 * alone,
        "pause_ms": 1000 * pause,
        "pause_of_a_step": pause / alone,
        "step_beside": beside / alone,
    }
    megabytes = sum(12 * parameter.numel() for parameter in model.parameters()) / 1e6  # a weight and two moments
    return Measured(f"a training state of {megabytes:.0f} MB", tool, quality=quality)


def _timed(function: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = function()
    return time.perf_counter() - started, result


def _steps(case: Case, model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> Callable[[], object]:
    """The engine's next step at each call."""
    tokens, numbers = case.batch_tokens, iter(range(1000))
    plan = case.plan(1000)

    def step() -> object:
        start, batches = next(numbers) * tokens, RandomBatches(case)
        return train(model, optimizer, plan, batches, _SETTINGS, start_tokens=start, end_tokens=start + tokens)

    return step


@contextmanager
def _in_background(folder: Path, model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> Iterator[Save]:
    """As the engine does it: copied to memory, written by a thread, flushed to the disk."""
    with open_states(folder, model, optimizer, _SETTINGS, Ranks()) as states:
        assert states

        def save(number: int) -> Callable[[], object]:
            states.save(number, {"tokens": number})
            return states.wait

        yield save


@contextmanager
def _by_async_save(folder: Path, model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> Iterator[Save]:
    def save(number: int) -> Callable[[], object]:
        future: Any = async_save(_state(model, optimizer), checkpoint_id=folder / str(number), no_dist=True)
        return future.result

    yield save


@contextmanager
def _in_line(folder: Path, model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> Iterator[Save]:
    """What transformers' Trainer does, in one file; left to the system to flush."""

    def save(number: int) -> Callable[[], object]:
        torch.save(_state(model, optimizer), folder / f"{number}.pt")
        return lambda: None

    yield save


def _state(model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}


def bench_saving(console: Console, rounds: int, output: Path | None) -> None:
    """Measure, print a table, and write JSON to `output` if given.

    Raises:
        InputError: no folder for the output.
    """
    check_place(output)
    show_measured(console, measure(rounds=rounds), output)
