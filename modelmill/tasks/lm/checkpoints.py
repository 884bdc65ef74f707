"""Model, optimiser and progress ↔ folders: training states, weight snapshots, averages, Hugging Face exports."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging

from modelmill.tasks.errors import InputError
from modelmill.tasks.files import atomic_path, read_json, remove_path, write_json
from modelmill.tasks.lm.optim import moments, set_moments


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and stored buffers by name, a tied matrix once."""
    persistent = model.state_dict().keys()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in persistent}
    return {name: tensor.detach() for name, tensor in (*model.named_parameters(), *buffers.items())}


@torch.no_grad()
def set_weights(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Copy weights that `weights` returned into a model of the same shape."""
    for name, tensor in weights(model).items():
        tensor.copy_(tensors[name])


def save_state(
    folder: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, progress: dict[str, Any], keep: int
) -> None:
    """Write the training state after `step` steps, whole or not at all, then remove all but the newest `keep`."""
    with atomic_path(folder / f"step-{step:09d}") as temporary:
        temporary.mkdir(parents=True)
        save_file(weights(model), temporary / "model.safetensors")
        save_file(moments(optimizer, model), temporary / "optimizer.safetensors")
        write_json(temporary / "progress.json", progress | {"step": step})
    for old in state_folders(folder)[:-keep]:
        remove_path(old)


def state_folders(folder: Path) -> list[Path]:
    """Training states in a workspace, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / "progress.json").is_file())


def load_newest_state(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
    """Put the newest training state into model and optimiser and return its progress; None where there is none."""
    states = state_folders(folder)
    if not states:
        return None
    set_weights(model, load_file(states[-1] / "model.safetensors"))
    set_moments(optimizer, model, load_file(states[-1] / "optimizer.safetensors"))
    return read_json(states[-1] / "progress.json")


def save_moments(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write the optimiser's moments for a later stage (`optimizer.safetensors` of a checkpoint artifact)."""
    with atomic_path(path) as temporary:
        save_file(moments(optimizer, model), temporary)


def load_moments(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Continue with the moments of an earlier stage's run of the same shape."""
    if not path.is_file():
        raise InputError(
            f"no optimiser moments at {path}; expected a checkpoint artifact of pretrain, extend or anneal"
        )
    set_moments(optimizer, model, load_file(path))


def save_snapshot(folder: Path, step: int, model: nn.Module) -> None:
    """Keep the weights after `step` steps for an average."""
    with atomic_path(folder / f"weights-{step:09d}.safetensors") as temporary:
        save_file(weights(model), temporary)


def snapshots(folder: Path) -> list[Path]:
    """Weight snapshots in a folder, oldest first."""
    return sorted(folder.glob("weights-*.safetensors"))


def average_weights(files: Sequence[Path]) -> dict[str, torch.Tensor]:
    """Mean of the weights in several files, in float64, one tensor at a time (memory does not grow with the files)."""
    if not files:
        raise InputError("no checkpoint to average; expected at least one weight snapshot")
    with safe_open(files[0], "pt") as first:
        names = list(first.keys())
    average = {}
    for name in names:
        total: torch.Tensor | None = None
        for file in files:
            with safe_open(file, "pt") as opened:
                tensor = opened.get_tensor(name)
            total = tensor.double() if total is None else total.add_(tensor)
            dtype = tensor.dtype
        average[name] = (total / len(files)).to(dtype)  # pyright: ignore
    return average


def export(model: PreTrainedModel, tokenizer_folder: Path, folder: Path) -> None:
    """Write a Hugging Face folder (weights, configuration, tokenizer, chat template) that AutoModel and vLLM open."""
    with atomic_path(folder) as temporary:
        temporary.mkdir(parents=True)
        logging.disable_progress_bar()
        model.save_pretrained(temporary)
        for file in sorted(tokenizer_folder.iterdir()):
            shutil.copyfile(file, temporary / file.name)


def write_curve(path: Path, curve: Sequence[dict[str, Any]]) -> None:
    """One JSON object a line."""
    with atomic_path(path) as temporary:
        temporary.write_text("".join(json.dumps(line, sort_keys=True) + "\n" for line in curve), encoding="utf-8")
