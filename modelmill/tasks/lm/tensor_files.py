"""Safetensors files → tensors by name, read one at a time; the tensor of a model's parameter, however files keep it."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import count, takewhile
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from modelmill.tasks.errors import InputError


class TensorFiles(Mapping[str, Tensor]):
    """The tensors of some files as a mapping, each read when it is asked for: memory holds one at a time."""

    def __init__(self, files: Sequence[Path]) -> None:
        opened = [safe_open(file, "pt") for file in files]
        self._files = {name: file for file in opened for name in file.keys()}  # noqa: SIM118 - not a mapping

    def __getitem__(self, name: str) -> Tensor:
        return self._files[name].get_tensor(name)

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def model_files(folder: Path) -> TensorFiles:
    """The weights in a Hugging Face folder.

    Raises:
        InputError: there are none in this format.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise InputError(f"no safetensors file in {folder}; expected the weights of a model beside its config.json")
    return TensorFiles(files)


def parameter_tensor(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """The whole tensor of a parameter or buffer of a transformers model.

    Hugging Face folders keep the matrices of each expert apart, a model has those of a layer in one tensor: gate and up
    projection one above the other [experts, 2 · width, D], and the down projection [experts, D, width].

    Raises:
        InputError: it is not among the tensors.
    """
    if name in tensors:
        return tensors[name]
    layer, _, kind = name.rpartition(".")
    parts = ("gate_proj", "up_proj") if kind == "gate_up_proj" else (kind,)
    experts = list(takewhile(lambda number: f"{layer}.{number}.{parts[0]}.weight" in tensors, count()))
    if not experts:
        raise InputError(
            f"the model's files have no tensor {name}; expected one for each parameter: copy the folder anew"
        )
    matrices = [torch.cat([tensors[f"{layer}.{number}.{part}.weight"] for part in parts]) for number in experts]
    return torch.stack(matrices)
