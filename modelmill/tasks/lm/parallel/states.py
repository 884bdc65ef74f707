"""Model, optimiser and progress ↔ training states in a folder, which a run of any layout continues from.

A state is written by torch's distributed checkpoint: each process writes its shards under the parameters' names, each
reads the parts that its own layout needs. Training stops only while tensors are copied to the host's memory.
"""

import copy
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint._state_dict_stager import StateDictStager
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from modelmill.tasks.files import read_json, remove_path, sync_file, write_json
from modelmill.tasks.lm.checkpoints import weights
from modelmill.tasks.lm.optim import moments
from modelmill.tasks.lm.parallel.ranks import Ranks
from modelmill.tasks.lm.settings import TrainSettings

PROGRESS = "progress.json"


class States:
    """The training states of one run: step-000000123 folders, of which the newest and some chosen ones are kept."""

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        keep: int,
        keep_every_tokens: int | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        """`keep`: how many of the newest stay; `keep_every_tokens`: one for each so many tokens stays as well."""
        self.folder = folder
        self.model, self.optimizer = model, optimizer
        self.keep, self.keep_every_tokens = keep, keep_every_tokens
        self.ranks = ranks or Ranks()
        self._kept_tokens = 0
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="states")
        self._writing: Future[None] | None = None
        # What one process alone does is meant so; a filter for the writing thread only does not exist.
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        self._on_gpu = self.ranks.device.startswith("cuda")
        # Not DefaultStager, which in torch 2.11 frees the copies after a state and fails at the next.
        self._stager = StateDictStager(pin_memory=self._on_gpu, share_memory=False)

    def load_newest(self) -> dict[str, Any] | None:
        """Put the newest state into model and optimiser and return its progress; None where there is none."""
        newest = None
        if self.ranks.is_first:
            for leftover in self.folder.glob(".step-*"):
                remove_path(leftover)
            newest = next(reversed(state_folders(self.folder)), None)
        newest = self.ranks.share(newest)
        if newest is None:
            return None
        progress = read_json(newest / PROGRESS)
        if progress["fresh"]:
            self.optimizer.state.clear()
        elif _is_fresh(self.optimizer):
            _allocate(self.optimizer)
        load(
            self._tensors(),
            storage_reader=FileSystemReader(newest),
            process_group=self.ranks.state_group,
            no_dist=self.ranks.alone,
        )
        self._kept_tokens = progress["kept_tokens"]
        return progress

    def save(self, step: int, progress: dict[str, Any]) -> None:
        """Copy the state after `step` steps and write it in the background; at most one is being written.

        `progress` holds `tokens`, and whatever else continuing needs.
        """
        self.wait()
        every = self.keep_every_tokens
        stays = every is not None and progress["tokens"] // every > self._kept_tokens // every
        self._kept_tokens = progress["tokens"] if stays else self._kept_tokens
        # A copy: the run goes on adding to its curve while this is written.
        facts = copy.deepcopy(progress) | {"step": step, "stays": stays, "kept_tokens": self._kept_tokens}
        facts["fresh"] = _is_fresh(self.optimizer)
        tensors = self._stager.stage(self._tensors(), non_blocking=self._on_gpu)
        if self._on_gpu:
            torch.accelerator.synchronize()
        self._writing = self._writer.submit(self._write, step, tensors, facts)

    def remove_after(self, step: int) -> None:
        """Remove the states of more than `step` steps: what came after is to be forgotten."""
        self.wait()
        if self.ranks.is_first:
            for path in state_folders(self.folder):
                if int(path.name.removeprefix("step-")) > step:
                    remove_path(path)
        self.ranks.share(None)

    def wait(self) -> None:
        """Until the state that is being written lies in its place; raises what went wrong there."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Wait and free the copies."""
        try:
            self.wait()
        finally:
            self._writer.shutdown()
            self._stager.close()

    def _tensors(self) -> dict[str, Tensor]:
        return weights(self.model) | {
            f"optimizer.{name}": tensor for name, tensor in moments(self.optimizer, self.model).items()
        }

    def _write(self, step: int, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Shards into a hidden folder, which the first process renames when all of them have written theirs."""
        target = self.folder / f"step-{step:09d}"
        hidden = self.folder / f".step-{step:09d}.tmp"
        storage = FileSystemWriter(hidden, single_file_per_rank=True, sync_files=True)
        save(tensors, storage_writer=storage, process_group=self.ranks.state_group, no_dist=self.ranks.alone)
        if not self.ranks.is_first:
            return
        write_json(hidden / PROGRESS, facts)
        for file in hidden.iterdir():
            sync_file(file)
        remove_path(target)
        hidden.replace(target)
        self._remove_old()

    def _remove_old(self) -> None:
        for old in state_folders(self.folder)[: -self.keep]:
            if not read_json(old / PROGRESS)["stays"]:
                remove_path(old)


@contextmanager
def open_states(
    workspace: Path | None, model: nn.Module, optimizer: torch.optim.Optimizer, settings: TrainSettings, ranks: Ranks
) -> Iterator[States | None]:
    """The training states of a run, where it has a workspace; at the end the last one is waited for."""
    if workspace is None:
        yield None
        return
    kept = {"keep": settings.keep_checkpoints, "keep_every_tokens": settings.keep_every_tokens}
    states = States(workspace / "states", model, optimizer, ranks=ranks, **kept)
    try:
        yield states
    finally:
        states.close()


def state_folders(folder: Path) -> list[Path]:
    """Whole training states in a folder, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / PROGRESS).is_file())


def _is_fresh(optimizer: torch.optim.Optimizer) -> bool:
    """Whether it has made no step and was given no state."""
    return not any(optimizer.state.values())


def _allocate(optimizer: torch.optim.Optimizer) -> None:
    """Give a fresh optimiser its state, to be overwritten: a step of rate 0 along gradients of 0."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
