"""Model and optimiser ↔ files: moments for the next stage, weight snapshots, averages, Hugging Face exports."""

import json
import shutil
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.utils import logging

from modelmill.tasks.errors import InputError
from modelmill.tasks.files import atomic_path
from modelmill.tasks.lm.optim import moments, set_moments
from modelmill.tasks.lm.parallel.ranks import Ranks
from modelmill.tasks.lm.parallel.shard import set_whole, whole_tensors
from modelmill.tasks.lm.tensor_files import TensorFiles


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


def save_moments(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, ranks: Ranks | None = None) -> None:
    """Write the optimiser's moments for a later stage (`optimizer.safetensors` of a checkpoint artifact)."""
    save_whole(path, moments(optimizer, model), ranks or Ranks())


def save_whole(path: Path, tensors: dict[str, torch.Tensor], ranks: Ranks) -> None:
    """Write whole tensors to a safetensors file; every process helps to gather, the first one writes."""
    gathered = dict(whole_tensors(tensors, ranks))
    if ranks.is_first:
        with atomic_path(path) as temporary:
            save_file(gathered, temporary)


def load_moments(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Continue with the moments of an earlier stage's run of the same shape; shards take their parts.

    Raises:
        InputError: there is no such file.
        ContractError: the moments are another optimiser's or another model's.
    """
    if not path.is_file():
        raise InputError(
            f"no optimiser moments at {path}; expected a checkpoint artifact of pretrain, extend or anneal"
        )
    set_moments(optimizer, model, TensorFiles([path]))


def save_snapshot(folder: Path, step: int, model: nn.Module, ranks: Ranks | None = None) -> None:
    """Keep the weights after `step` steps for an average."""
    save_whole(folder / f"weights-{step:09d}.safetensors", weights(model), ranks or Ranks())


def snapshots(folder: Path) -> list[Path]:
    """Weight snapshots in a folder, oldest first."""
    return sorted(folder.glob("weights-*.safetensors"))


def average_weights(files: Sequence[Path], names: Collection[str] | None = None) -> Iterator[tuple[str, torch.Tensor]]:
    """Mean of the weights in several files, all or those of `names`, summed in float64, one tensor at a time: memory
    grows neither with the files nor with the model.

    Raises:
        InputError: no files.
    """
    if not files:
        raise InputError("no checkpoint to average; expected at least one weight snapshot")
    first, *others = (TensorFiles([file]) for file in files)
    for name in first if names is None else names:
        tensor = first[name]
        total = tensor.double()
        for other in others:
            total.add_(other[name])
        yield name, (total / len(files)).to(tensor.dtype)


@torch.no_grad()
def set_average(model: nn.Module, files: Sequence[Path]) -> None:
    """Give a model, or this process's shards of it, the mean of the weights in several files."""
    targets = weights(model)
    for name, mean in average_weights(files, targets):
        set_whole(targets[name], mean)


def export(model: PreTrainedModel, tokenizer_folder: Path, folder: Path, ranks: Ranks | None = None) -> None:
    """Write a Hugging Face folder (weights, configuration, tokenizer, chat template) that AutoModel and vLLM open.

    Every process helps to gather the weights, the first one writes.
    """
    ranks = ranks or Ranks()
    tensors = None
    if not ranks.alone:
        tensors = dict(whole_tensors(weights(model), ranks))
        with torch.device("meta"), no_init_weights():
            model = AutoModelForCausalLM.from_config(model.config)
    if not ranks.is_first:
        return
    with atomic_path(folder) as temporary:
        temporary.mkdir(parents=True)
        logging.disable_progress_bar()
        model.save_pretrained(temporary, state_dict=tensors)
        for file in sorted(tokenizer_folder.iterdir()):
            shutil.copyfile(file, temporary / file.name)


def write_curve(path: Path, curve: Sequence[dict[str, Any]]) -> None:
    """One JSON object a line."""
    with atomic_path(path) as temporary:
        temporary.write_text("".join(json.dumps(line, sort_keys=True) + "\n" for line in curve), encoding="utf-8")
