"""A model and a tensor group → the same model with its matrices cut over the group, and its tokens between them.

transformers says for every class which matrices are cut by columns and which by rows (`base_model_tp_plan`). Where no
such matrix is at work, each process has a part of every row's tokens (arXiv:2205.05198): they are gathered before the
first matrices of attention and of a feed-forward layer, and behind the last one the partial sums are added up and dealt
out. So the residual stream, norms and routers are of a process's own tokens.

Shapes: R rows, T tokens of a row, n processes of the group, d width between two matrices, D width of the model.
"""

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from modelmill.tasks.lm import float8
from modelmill.tasks.lm.parallel.collectives import gather_sequence, gathered, scattered
from modelmill.tasks.lm.parallel.ranks import Ranks

_GROUPS: dict[str, Any] = {}
"""Tensor groups by the names that torch gave them: an operation of torch takes no group."""


def cut_matrices(model: Any, ranks: Ranks) -> None:
    """Cut the matrices of attention and of dense feed-forward layers, in place."""
    assert ranks.mesh is not None
    mesh = ranks.mesh["tensor"]
    group, parents = mesh.get_group(), dict[str, nn.Module]()
    _GROUPS[group.group_name] = group
    for name, module, style in list(_planned(model)):
        linear: Any = module
        if not isinstance(module, nn.Linear) or style not in ("colwise", "rowwise"):
            continue
        assert linear.bias is None
        by_columns = style == "colwise"
        cut = distribute_tensor(linear.weight.detach(), mesh, [Shard(0 if by_columns else 1)], src_data_rank=None)
        linear.weight = nn.Parameter(cut)
        if by_columns:
            linear.__class__ = Product
            parent = name.rpartition(".")[0]
            parents[parent] = model.model.get_submodule(parent)
        else:
            linear.__class__, linear.group = RowProduct, group
    gather = partial(_gather_tokens, group)
    for parent in parents.values():
        parent.register_forward_pre_hook(gather, with_kwargs=True)


class Product(nn.Linear):
    """A linear layer [..., inputs] → [..., outputs] by what this process has of its weights, in 8 bits where gradients
    are computed and `in_float8` is set.

    A class, not a forward of each module's own: torch would compile every layer anew, and give up after eight.
    """

    in_float8 = False

    def forward(self, input: Tensor) -> Tensor:
        """See `nn.Linear`."""
        weight = local(self.weight)
        return (float8.multiply if self.is_in_float8(weight) else F.linear)(input, weight)

    def is_in_float8(self, weight: Tensor) -> bool:
        """Whether this product, now, is one of 8-bit numbers."""
        return self.in_float8 and torch.is_grad_enabled() and float8.fits(weight)


class RowProduct(Product):
    """The one whose partial sums are dealt out over the tensor group."""

    group: Any

    def forward(self, input: Tensor) -> Tensor:
        """See `nn.Linear`."""
        weight = _in_compute_type(local(self.weight))
        arguments = (_in_compute_type(input), weight, self.group, self.is_in_float8(weight))
        return _ScatteredProduct.apply(*arguments)  # pyright: ignore[reportReturnType]


def partial_parameters(model: Any) -> list[nn.Parameter]:
    """Parameters that each process of a tensor group has whole and uses for its own tokens or heads only (norms,
    routers): their gradients must be summed over the group."""
    return [parameter for parameter in model.model.parameters() if not _is_cut(parameter)]


def local(tensor: Any) -> Any:
    """This process's part of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _is_cut(parameter: nn.Parameter) -> bool:
    return isinstance(parameter, DTensor) and "tensor" in (parameter.device_mesh.mesh_dim_names or ())


def _planned(model: Any) -> Iterator[tuple[str, nn.Module, str]]:
    """Names of modules in transformers' table, with the style it gives them."""
    plan = model.config.base_model_tp_plan
    for name, module in model.model.named_modules():
        style = plan.get(re.sub(r"\.\d+(?=\.|$)", ".*", name))
        if style is not None:
            yield name, module, style


def _gather_tokens(
    group: Any, _: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Give attention or a feed-forward layer all tokens, in the type that its matrices compute in."""
    if arguments:
        return (gather_sequence(_in_compute_type(arguments[0]), group), *arguments[1:]), named
    return arguments, named | {"hidden_states": gather_sequence(_in_compute_type(named["hidden_states"]), group)}


def _in_compute_type(tensor: Tensor) -> Tensor:
    """What autocast would turn it into at a product, so that less is sent."""
    kind = tensor.device.type
    if not (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)):
        return tensor
    return tensor.to(torch.get_autocast_dtype(kind))


@torch.library.custom_op("modelmill::scattered_product", mutates_args=())
def scattered_product(inputs: Tensor, weight: Tensor, group: str, size: int, in_float8: bool) -> Tensor:
    """[R, T, d / n] · [D, d / n] → the sum over the group, of which each process gets its tokens: [R, T / n, D].

    One operation to torch, so that selective activation checkpointing keeps what is left of the product, not all of it.
    """
    product = float8.multiply if in_float8 else F.linear
    return scattered(product(inputs, weight), _GROUPS[group])


@scattered_product.register_fake
def _(inputs: Tensor, weight: Tensor, group: str, size: int, in_float8: bool) -> Tensor:
    rows, length, _ = inputs.shape
    return inputs.new_empty(rows, length // size, len(weight))


class _ScatteredProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, group: Any, in_float8: bool) -> Tensor:  # pyright: ignore
        ctx.save_for_backward(inputs, weight)
        ctx.group, ctx.in_float8 = group, in_float8
        return scattered_product(inputs, weight, group.group_name, group.size(), in_float8)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        inputs, weight = ctx.saved_tensors
        gradient = gathered(gradients[0], ctx.group)
        if ctx.in_float8:
            return *float8.gradients(gradient, inputs, weight), None, None
        return gradient @ weight, gradient.flatten(0, 1).T @ inputs.flatten(0, 1), None, None
