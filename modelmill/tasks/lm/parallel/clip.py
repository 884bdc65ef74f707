"""Gradients on every process → scaled down to a global norm, whatever the layout."""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from modelmill.tasks.lm.parallel.matrices import local, partial_parameters
from modelmill.tasks.lm.parallel.ranks import Ranks


def clip_gradients(model: torch.nn.Module, max_norm: float, ranks: Ranks) -> Tensor:
    """Scale the gradients down so that their global norm is at most `max_norm`; returns the norm before that.

    Each process adds the squares of its own shards, divided by the number of processes that hold the same ones, and
    one sum over all processes makes the norm.
    """
    if ranks.alone:
        return torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    if ranks.layout.tensor > 1:
        _sum_partial_gradients(model, ranks)
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    shards = [local(gradient) for gradient in gradients]
    squares = torch.stack([torch.linalg.vector_norm(shard) for shard in shards]).double().square()
    holders = [num_holders(gradient, ranks) for gradient in gradients]
    total = ranks.sum_tensor((squares / squares.new_tensor(holders)).sum()).sqrt().float()
    scale = torch.clamp(max_norm / (total + 1e-6), max=1.0)
    for shard in shards:
        shard.mul_(scale)
    return total


def num_holders(tensor: Tensor, ranks: Ranks) -> int:
    """How many processes hold the same part of a tensor as this one."""
    holders = ranks.layout.stage_size
    if isinstance(tensor, DTensor):
        for size, placement in zip(tensor.device_mesh.shape, tensor.placements, strict=True):
            holders //= 1 if placement.is_replicate() else size
    return holders


def _sum_partial_gradients(model: torch.nn.Module, ranks: Ranks) -> None:
    """Norms of queries and keys see only the heads of their process: one sum of all of them over the tensor group."""
    assert ranks.mesh is not None
    shards = [local(each.grad) for each in partial_parameters(model) if each.grad is not None]
    if not shards:
        return
    total = torch.cat([shard.flatten() for shard in shards])
    dist.all_reduce(total, group=ranks.mesh["tensor"].get_group())
    for shard, part in zip(shards, total.split([shard.numel() for shard in shards]), strict=True):
        shard.copy_(part.view_as(shard))
