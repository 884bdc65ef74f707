"""Collective operations with gradients: a tensor and a process group → what the group makes of it."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _SumGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, group: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.group = group
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total, None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, group: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        total = value.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        return gradients[0], None


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, send: Any, receive: Any, group: Any) -> Tensor:  # pyright: ignore
        ctx.sizes, ctx.group = (send, receive), group
        return _exchange(value, send, receive, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        send, receive = ctx.sizes
        return _exchange(gradients[0], receive, send, ctx.group), None, None, None


class _Sequence(torch.autograd.Function):
    """One of `gathered` and `scattered`, whose gradient is the other's."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, group: Any, there: Any, back: Any) -> Tensor:  # pyright: ignore
        ctx.group, ctx.back = group, back
        return there(value, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        return ctx.back(gradients[0], ctx.group), None, None, None


def _exchange(value: Tensor, send: list[int] | None, receive: list[int] | None, group: Any) -> Tensor:
    rows = len(value) if receive is None else sum(receive)
    received = value.new_empty((rows, *value.shape[1:]))
    dist.all_to_all_single(received, value.contiguous(), receive, send, group=group)
    return received


def gathered(value: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Parts [rows, length / n, width] → whole rows [rows, length, width], without a gradient."""
    parts = [torch.empty_like(value, memory_format=torch.contiguous_format) for _ in range(group.size())]
    dist.all_gather(parts, value.contiguous(), group=group)
    return torch.cat(parts, dim=1)


def scattered(value: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Whole rows [rows, length, width] → this process's part [rows, length / n, width] of their sum over the group,
    without a gradient."""
    parts = [part.contiguous() for part in value.chunk(group.size(), dim=1)]
    own = torch.empty_like(parts[0])
    dist.reduce_scatter(own, parts, group=group)
    return own


def sum_gradient(value: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The same value, whose gradient is summed over the group: each process uses it for a part of the work."""
    return _SumGradient.apply(value, group)  # pyright: ignore[reportReturnType]


def sum_parts(value: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The sum over the group, which all of its processes then use alike: the gradient goes to each part unchanged."""
    return _Sum.apply(value, group)  # pyright: ignore[reportReturnType]


def exchange(
    value: Tensor, group: dist.ProcessGroup, send: list[int] | None = None, receive: list[int] | None = None
) -> Tensor:
    """All-to-all of rows: `send[i]` rows go to process i, `receive[i]` come from it; none: equal parts."""
    return _Exchange.apply(value, send, receive, group)  # pyright: ignore[reportReturnType]


def gather_sequence(value: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Parts [rows, length / n, width] → whole rows [rows, length, width]; gradients of all processes are summed."""
    return _Sequence.apply(value, group, gathered, scattered)  # pyright: ignore[reportReturnType]


def scatter_sequence(value: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Whole rows of which each process has a summand [rows, length, width] → parts [rows, length / n, width] of the
    sum; the gradients of all parts go to each summand."""
    return _Sequence.apply(value, group, scattered, gathered)  # pyright: ignore[reportReturnType]
