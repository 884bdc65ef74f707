"""A transformer layer on the meta device → what one micro-batch computes, keeps and sends in it, forward and backward.

The layer really runs, with its shards and its collective operations, on tensors that have sizes but no memory.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributed._tools.fake_collectives import CollectiveOp, collective_ops, sync_ops
from torch.distributed.tensor import DTensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

GROUPED = {torch.ops.aten._grouped_mm}
_current: list["LayerTrace"] = []


@dataclass
class LayerTrace:
    """Of one micro-batch on one process. Bytes; FLOPs with two for a multiplication and addition.

    input_bytes: hidden states that the layer takes. saved_bytes: what all operations keep for the backward pass.
    product_bytes: results of attention and of matrix products; of partial sums, what is dealt out to this process.
    sent: bytes that the process sends, by dimension; repeated_sent: of the forward pass's, those that belong to no
    product, which selective checkpointing sends again.
    """

    input_bytes: int = 0
    saved_bytes: int = 0
    product_bytes: int = 0
    forward_flops: int = 0
    backward_flops: int = 0
    forward_sent: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    backward_sent: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    repeated_sent: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def kept_bytes(self, checkpointing: str) -> int:
        """What stays from the forward to the backward pass."""
        return {
            "none": self.saved_bytes,
            "selective": self.input_bytes + self.product_bytes,
            "full": self.input_bytes,
        }[checkpointing]


def trace_layer(layer: Any, hidden: Tensor, rotary: tuple[Tensor, Tensor], dimensions: dict[str, str]) -> LayerTrace:
    """Run a decoder layer on hidden states [rows, length, width] of the meta device; `dimensions` names the groups."""
    trace = LayerTrace(input_bytes=_bytes(hidden))
    parameters = {_storage(parameter) for parameter in layer.parameters()}
    excluded = parameters | {_storage(table) for table in rotary}
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        saved.setdefault(_storage(tensor), local(tensor))
        return tensor

    counter = _Counter(trace, dimensions)
    _current.append(trace)
    try:
        with FusedAttention(), counter:
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                output = layer(hidden, attention_mask=None, position_ids=None, position_embeddings=rotary)
            trace.saved_bytes = sum(_bytes(each) for storage, each in saved.items() if storage not in excluded)
            counter.forward = False
            output.backward(torch.empty_like(output))
    finally:
        _current.pop()
    return trace


def local(tensor: Any) -> Tensor:
    """This process's part of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _storage(tensor: Any) -> int:
    return local(tensor).untyped_storage()._cdata


def _bytes(tensor: Any) -> int:
    return local(tensor).untyped_storage().nbytes()


class _Counter(TorchDispatchMode):
    """Counts the operations of this process, below DTensor."""

    def __init__(self, trace: LayerTrace, dimensions: dict[str, str]) -> None:
        super().__init__()
        self.trace, self.dimensions, self.forward = trace, dimensions, True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(issubclass(each, DTensor) for each in types):
            return NotImplemented  # it comes again as an operation on parts
        result = func(*args, **kwargs)
        if any(issubclass(each, FakeTensor) for each in types):
            return result  # DTensor finds out the shape of a whole result that way
        if func in collective_ops and func not in sync_ops:
            self._count_bytes(func, result, args)
        elif func is torch.ops.modelmill.scattered_product.default:
            _, weight, group, size, _ = args
            self._count_scattered(result, weight, group, size)
        elif func._overloadpacket in GROUPED:
            self._count_product(2 * args[0].shape[-1] * _grouped_outputs(args[0], result), result)
        elif func._overloadpacket in flop_registry:
            self._count_product(flop_registry[func._overloadpacket](*args, **kwargs, out_val=result), result)
        return result

    def _count_scattered(self, result: Tensor, weight: Tensor, group: str, size: int) -> None:
        """A product whose sum over the group is dealt out: only this process's part of it stays."""
        whole = size * result.numel()
        self._count_product(2 * whole * weight.shape[1], result)
        self.trace.forward_sent[self.dimensions[group]] += bytes_sent("reduce_scatter", _bytes(result) * size, size)

    def _count_product(self, flops: int, result: Tensor) -> None:
        if self.forward:
            self.trace.forward_flops += flops
            self.trace.product_bytes += _bytes(result)
        else:
            self.trace.backward_flops += flops

    def _count_bytes(self, func: Any, result: Any, args: Any) -> None:
        group = CollectiveOp.get_process_group(func, args)
        dimension = self.dimensions[group.group_name]
        size = bytes_sent(func._overloadpacket.__name__, _largest((args, result)), group.size())
        sent = self.trace.forward_sent if self.forward else self.trace.backward_sent
        sent[dimension] += size
        if self.forward:
            self.trace.repeated_sent[dimension] += size


def bytes_sent(operation: str, size: int, num_processes: int) -> float:
    """What one process sends when `size` bytes (the larger of input and result) are exchanged in a ring or directly."""
    share = (num_processes - 1) / num_processes
    reduces_all = ("all_reduce" in operation or "allreduce" in operation) and "scatter" not in operation
    return size * share * (2 if reduces_all else 1)


def _largest(values: Any) -> int:
    """Bytes of the largest of several arguments, each a tensor or a list of the parts of one."""
    if isinstance(values, Tensor):
        return values.numel() * values.element_size()
    if isinstance(values, list):
        return sum(map(_largest, values))
    return max(map(_largest, values), default=0) if isinstance(values, tuple) else 0


def _grouped_outputs(inputs: Tensor, result: Tensor) -> int:
    """Numbers that a grouped product computes, each once: a sum over groups shares the rows out over the groups."""
    return result.numel() if result.ndim == 2 else result[0].numel()


class _Fused(torch.autograd.Function):
    """Keeps what FlashAttention 2 and flex_attention keep (inputs, output, a sum a row and head), computes nothing."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:  # pyright: ignore
        output = torch.empty_like(query)
        sums = torch.empty(query.shape[:-1], dtype=torch.float32, device=query.device)
        ctx.save_for_backward(query, key, value, output, sums)
        _current[-1].forward_flops += attention_flops(query, key)
        _current[-1].product_bytes += _bytes(output) + _bytes(sums)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor):  # pyright: ignore
        query, key, value, _, _ = ctx.saved_tensors
        _current[-1].backward_flops += 2 * attention_flops(query, key)
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def attention_flops(query: Tensor, key: Tensor) -> int:
    """The two products of a forward pass, not halved for causality: [rows, heads, length, size]."""
    rows, heads, length, size = query.shape
    return 4 * rows * heads * length * key.shape[2] * size


class FusedAttention(TorchFunctionMode):
    """Puts a fused kernel with a document mask in the place of scaled_dot_product_attention.

    On the meta device torch would choose the plain form, with a matrix of length x length."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return _Fused.apply(*args[:3])
        return func(*args, **(kwargs or {}))
