"""Parameter groups → an optimiser: Muon where a group says so, AdamW elsewhere. Works on DTensors of any placement.

Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon) with the size of update and the weight decay of Moonlight
(arXiv:2502.16982). torch.optim.Muon is the same for whole matrices; it takes no experts (3-D) and makes no use of the
processes that hold the shards. Shapes: B matrices of n x m.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, distribute_tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of Jordan's quintic iteration: singular values go to between 0.7 and 1.2 in five steps."""
ADAMW_SIZE = 0.2
"""Root mean square of AdamW's updates that Muon's are brought to (arXiv:2502.16982 §2.2)."""
TOGETHER = 16
"""Matrices of one shape that are made orthogonal together."""


def orthogonalised(matrices: Tensor, steps: int) -> Tensor:
    """Each matrix with its singular values near 1, by Newton-Schulz: [B, n, m] → [B, n, m].

    bfloat16 on accelerators as in the original; float32 on CPUs, which often lack fast bfloat16.
    """
    first, second, third = COEFFICIENTS
    found = matrices.to(torch.float32 if matrices.device.type == "cpu" else torch.bfloat16)
    tall = found.shape[-2] > found.shape[-1]
    found = found.mT if tall else found
    found = found / found.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = found @ found.mT
        found = first * found + torch.baddbmm(gram, gram, gram, beta=second, alpha=third) @ found
    return (found.mT if tall else found).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Groups with `muon` true hold matrices, or stacks of them (`parts`: how many lie one above the other in each)."""

    def __init__(self, groups: list[dict[str, Any]], *, momentum: float, steps: int, adamw: torch.optim.AdamW) -> None:
        super().__init__(groups + adamw.param_groups, {"lr": 0.0})
        self.momentum = momentum
        self.steps = steps
        self.adamw = adamw

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step of all groups."""
        self.adamw.param_groups = [group for group in self.param_groups if not group["muon"]]
        self.adamw.state = self.state
        self.adamw.step()
        for group in self.param_groups:
            trained = [parameter for parameter in group["params"] if group["muon"] and parameter.grad is not None]
            for same in _alike(trained):
                self._step(same, group)

    def _step(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        updates = [self._momentum_update(parameter) for parameter in parameters]
        if parameters[0].ndim == 3:
            made = [_stack_made(update, self.steps, group["parts"]) for update in updates]
        else:
            made = _matrices_made(updates, self.steps)
        rows, columns = parameters[0].shape[-2] // group["parts"], parameters[0].shape[-1]
        size = group["lr"] * ADAMW_SIZE * math.sqrt(max(rows, columns))
        for parameter, update in zip(parameters, made, strict=True):
            local = _local(parameter)
            local.mul_(1 - group["lr"] * group["weight_decay"]).sub_(_local(update), alpha=size)

    def _momentum_update(self, parameter: Tensor) -> Tensor:
        """Nesterov momentum, with the placement of the parameter."""
        gradient = parameter.grad
        assert gradient is not None
        if isinstance(parameter, DTensor) and isinstance(gradient, DTensor):
            gradient = gradient.redistribute(placements=parameter.placements)
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer = state["momentum_buffer"]
        _local(buffer).lerp_(_local(gradient), 1 - self.momentum)
        return gradient.lerp(buffer, self.momentum)


def _alike(parameters: list[Tensor]) -> Iterable[list[Tensor]]:
    """Parameters of the same shape and placement, as many as are computed together."""
    found: dict[Any, list[Tensor]] = {}
    for parameter in parameters:
        placed = (parameter.device_mesh, parameter.placements) if isinstance(parameter, DTensor) else None
        found.setdefault((parameter.shape, parameter.dtype, placed), []).append(parameter)
    for same in found.values():
        mesh = same[0].device_mesh.size() if isinstance(same[0], DTensor) else 1
        together = -(-TOGETHER // mesh) * mesh
        yield from (same[start : start + together] for start in range(0, len(same), together))


def _matrices_made(updates: list[Tensor], steps: int) -> Sequence[Tensor]:
    """Whole matrices are made orthogonal in one batch; sharded ones are gathered so that each process has some."""
    first = updates[0]
    if not isinstance(first, DTensor):
        return list(orthogonalised(torch.stack(updates), steps).unbind())
    plain = all(type(placement) in (Shard, Replicate) for placement in first.placements)
    if not plain:
        return [_gathered_made(update, steps) for update in updates]
    stacked = _from_local(
        torch.stack([_local(update) for update in updates]),
        first,
        [Shard(p.dim + 1) if isinstance(p, Shard) else p for p in first.placements],
        len(updates),
    )
    made = _by_first_dimension(stacked, steps, 1)
    return [_from_local(local, first, first.placements) for local in _local(made).unbind()]


def _stack_made(update: Tensor, steps: int, parts: int) -> Tensor:
    """A stack of matrices (experts): each is made orthogonal where it lies, if it lies whole somewhere."""
    if not isinstance(update, DTensor):
        return _parts_made(update, steps, parts)
    return _by_first_dimension(update, steps, parts)


def _by_first_dimension(stack: DTensor, steps: int, parts: int) -> DTensor:
    """Deal the matrices of a stack out to all processes, make them orthogonal there, give them back."""
    dealt = stack.redistribute(placements=[Shard(0)] * stack.device_mesh.ndim)
    local = _parts_made(dealt.to_local(), steps, parts)
    made = DTensor.from_local(
        local, dealt.device_mesh, dealt.placements, run_check=False, shape=dealt.shape, stride=dealt.stride()
    )
    return made.redistribute(placements=stack.placements)


def _parts_made(stack: Tensor, steps: int, parts: int) -> Tensor:
    if not stack.numel():
        return stack
    matrices = stack.reshape(-1, stack.shape[-2] // parts, stack.shape[-1])
    made = [orthogonalised(some, steps) for some in matrices.split(TOGETHER)]
    return torch.cat(made).view(stack.shape)


def _gathered_made(update: Any, steps: int) -> DTensor:
    """Every process computes the whole matrix: for placements that redistribution does not know."""
    whole = orthogonalised(update.full_tensor()[None], steps)[0]
    return distribute_tensor(whole, update.device_mesh, update.placements, src_data_rank=None)


def _from_local(local: Tensor, like: DTensor, placements: Sequence[Placement], number: int | None = None) -> DTensor:
    shape = like.shape if number is None else torch.Size([number, *like.shape])
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(local, like.device_mesh, placements, run_check=False, shape=shape, stride=stride)


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
