"""Inputs and weights of a linear layer → its output and gradients by products of 8-bit numbers.

Inputs and weights become E4M3, gradients E5M2 (arXiv:2209.05433); sums are float32, results bf16. Each tensor has one
scale, taken from its largest value anew every time. Scales are powers of two: then a value is rounded alike whatever
largest value stands beside it, unless that is 2^14 times as large, and layouts that cut tensors differently agree.

Shapes: T tokens, I inputs, O outputs.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from modelmill.tasks.errors import ResourceError

MULTIPLE = 16
"""Sides of matrices that a GPU multiplies in 8 bits divide by it."""
CAPABILITY = (8, 9)
"""CUDA's name for the first GPUs with such products: Ada, then Hopper (9.0) and Blackwell (10.0)."""
SMALLEST = 1e-30
"""What a largest value is taken for at least: a tensor of zeros has a scale too."""


class Float8(NamedTuple):
    """A tensor is `values` · `scale`, a float32 without dimensions."""

    values: Tensor
    scale: Tensor


def check_device(device: torch.device) -> None:
    """Refuse a GPU without 8-bit products; a CPU computes them too, slowly.

    Raises:
        ResourceError: it is one.
    """
    if device.type == "cuda" and (found := torch.cuda.get_device_capability(device)) < CAPABILITY:
        raise ResourceError(
            f"precision: fp8 needs a GPU of compute capability {CAPABILITY[0]}.{CAPABILITY[1]} or more (Ada, Hopper, "
            f"Blackwell); found {torch.cuda.get_device_name(device)} with {found[0]}.{found[1]}: set precision: bf16"
        )


def fits(weight: Tensor) -> bool:
    """Whether a matrix can be multiplied in 8 bits."""
    return not any(side % MULTIPLE for side in weight.shape)


# torch 2.13 cannot trace a function with a backward pass of its own where sizes are symbols. What makes kernels of the
# graph looks inside all the same.
@torch.compiler.allow_in_graph
def multiply(inputs: Tensor, weight: Tensor) -> Tensor:
    """inputs [..., I], weight [O, I] → bf16 [..., O]. The backward pass finds the inputs in 8 bits."""
    output: Any = _Product.apply(_rows(inputs), weight)
    return _unpadded(output, inputs.shape)


def gradients(gradient: Tensor, inputs: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """gradient [..., O], inputs [..., I], weight [O, I] → gradients of inputs and weight, in their types."""
    kept = rounded(_rows(inputs), torch.float8_e4m3fn)
    of_inputs, of_weight = _gradients(_rows(gradient), kept, weight)
    return _unpadded(of_inputs, inputs.shape).to(inputs.dtype), of_weight


def rounded(tensor: Tensor, dtype: torch.dtype) -> Float8:
    """The nearest 8-bit numbers under the smallest power of two that keeps the largest value in range.

    From bf16, where a layout may have brought the tensor already.
    """
    tensor = tensor.to(torch.bfloat16)
    largest = tensor.abs().amax().float().clamp(min=SMALLEST)
    scale = torch.exp2(torch.ceil(torch.log2(largest / torch.finfo(dtype).max)))
    return Float8((tensor / scale).to(dtype), scale)


class _Product(torch.autograd.Function):
    """Of padded rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor) -> Tensor:  # pyright: ignore
        kept = rounded(rows, torch.float8_e4m3fn)
        ctx.save_for_backward(*kept, weight)
        ctx.dtype = rows.dtype
        # Hopper sums up faster with fewer bits, which the gradients are spared.
        return _multiplied(kept, rounded(weight, torch.float8_e4m3fn), torch.bfloat16, fast=True)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        values, scale, weight = ctx.saved_tensors
        of_rows, of_weight = _gradients(outputs[0], Float8(values, scale), weight)
        return of_rows.to(ctx.dtype), of_weight


def _gradients(gradient: Tensor, inputs: Float8, weight: Tensor) -> tuple[Tensor, Tensor]:
    """gradient [T, O], inputs [T, I], weight [O, I] → bf16 [T, I] and, in the weight's type, [O, I]."""
    incoming = rounded(gradient, torch.float8_e5m2)
    of_inputs = _multiplied(incoming, _turned(rounded(weight, torch.float8_e4m3fn)), torch.bfloat16)
    return of_inputs, _multiplied(_turned(incoming), _turned(inputs), weight.dtype)


def _multiplied(first: Float8, second: Float8, dtype: torch.dtype, *, fast: bool = False) -> Tensor:
    """first [M, K], second [N, K] → [M, N]: both lie in memory along the side that is summed over, as GPUs want it.

    torch's name begins with an underscore, but the public `scaled_mm` of torch 2.11 knows no CPU.
    """
    return torch.ops.aten._scaled_mm(
        first.values, second.values.t(), first.scale, second.scale, out_dtype=dtype, use_fast_accum=fast
    )


def _turned(tensor: Float8) -> Float8:
    return Float8(tensor.values.t().contiguous(), tensor.scale)


def _rows(tensor: Tensor) -> Tensor:
    """[..., C] → [T, C], with rows of zeros up to a multiple of 16."""
    rows = tensor.flatten(0, -2)
    padding = -len(rows) % MULTIPLE
    return F.pad(rows, (0, 0, 0, padding)) if padding else rows


def _unpadded(rows: Tensor, shape: torch.Size) -> Tensor:
    return rows[: shape[:-1].numel()].view(*shape[:-1], -1)
