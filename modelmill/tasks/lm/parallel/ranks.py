"""A layout and this process's number → its groups, its rows and labels of a batch, sums over all processes.

Every process computes the loss of labels that no other one has: those of its own rows, and of these every n-th where n
processes share the rows (context and tensor parallelism). So the sum over all processes, of losses as of gradients, is
that of the batch, whatever the layout.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from modelmill.tasks.errors import RecipeError, ResourceError
from modelmill.tasks.lm.losses import IGNORE
from modelmill.tasks.lm.parallel.layout import Layout
from modelmill.tasks.lm.parallel.rendezvous import join_group
from modelmill.tasks.lm.plan import StepPoint


@dataclass(frozen=True)
class Ranks:
    """One process of a layout; without arguments, the only one.

    mesh: (pipeline, replicate, shard, tensor). expert_mesh: (pipeline, replicate, shard, expert), the same processes
    as the experts see them. context_mesh: the processes that share this one's rows. state_group: for checkpoints,
    which are written while training goes on.
    """

    layout: Layout = field(default_factory=Layout)
    rank: int = 0
    device: str = "cpu"
    mesh: DeviceMesh | None = None
    expert_mesh: DeviceMesh | None = None
    context_mesh: DeviceMesh | None = None
    state_group: Any = None

    @property
    def alone(self) -> bool:
        return self.layout.num_processes == 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    @property
    def pipeline_rank(self) -> int:
        """Which of the processes of a pipeline this is: stages i, i + P, ... of P are the i-th's."""
        return self.rank // self.layout.stage_size

    @property
    def sharing_rank(self) -> int:
        return self.rank % self.layout.sharing_size

    @property
    def sharing_groups(self) -> list[dist.ProcessGroup]:
        """The groups whose processes share this one's rows, tokens and labels: context, tensor."""
        groups = [self.context_mesh.get_group()] if self.context_mesh is not None else []
        if self.mesh is not None and self.layout.tensor > 1:
            groups.append(self.mesh["tensor"].get_group())
        return groups

    @property
    def stage_groups(self) -> list[dist.ProcessGroup]:
        """Groups over all of which together a sum goes over the processes that hold the same layers."""
        if self.mesh is None:
            return []
        names = ("replicate", "shard", "tensor")
        return [self.mesh[name].get_group() for name in names if self.mesh[name].size() > 1]

    @property
    def data_rank(self) -> int:
        """Which part of the batch this process takes."""
        return self.rank // self.layout.sharing_size % self.layout.data_size

    def own_rows(self, point: StepPoint) -> StepPoint:
        """The step with this process's rows only: all processes take equally many.

        Where they do not divide the batch, the last ones also take rows of others; `own_labels` leaves these out.
        """
        size = self.layout.rows_each(point.num_rows)
        first = min(self.data_rank * size, point.num_rows - size)
        return point._replace(first_row=point.first_row + first, num_rows=size)

    def own_labels(self, batch: Any, point: StepPoint) -> Any:
        """A batch of `own_rows(point)` without the labels that are another process's; `point` is the whole step."""
        if self.alone:
            return batch
        size, length = batch.labels.shape
        start = self.data_rank * size
        repeated = min(start - min(start, point.num_rows - size), size)
        labels = torch.full_like(batch.labels, IGNORE)
        own = slice(self.sharing_rank, length, self.layout.sharing_size)
        labels[repeated:, own] = batch.labels[repeated:, own]
        return replace(batch, labels=labels)

    def sum(self, value: float) -> float:
        """The sum over all processes of a number on the host."""
        if self.alone:
            return value
        total = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(total)
        return total.item()

    def sum_tensor(self, value: Tensor) -> Tensor:
        """The sum over all processes of a tensor on the device, in place."""
        if not self.alone:
            dist.all_reduce(value)
        return value

    def share(self, value: Any) -> Any:
        """What the first process has, on every process."""
        if self.alone:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]


@contextmanager
def open_ranks(layout: Layout, device: str = "cpu") -> Iterator[Ranks]:
    """Join the processes that RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT name (torchrun sets them, so
    does the pool), and leave them at the end. A layout of one process needs none of this.

    Raises:
        RecipeError: there are not as many processes as the layout has.
    """
    if layout.num_processes == 1:
        yield Ranks(device=device)
        return
    if device.startswith("cuda"):
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    joined = not dist.is_initialized()
    if joined:
        _join(device)
    try:
        yield join_layout(layout, device)
    finally:
        if joined:
            dist.destroy_process_group()


def join_layout(layout: Layout, device: str = "cpu") -> Ranks:
    """This process's place in a layout of all processes that have joined.

    Raises:
        RecipeError: there are not as many processes as the layout has.
    """
    if dist.get_world_size() != layout.num_processes:
        raise RecipeError(
            f"found {dist.get_world_size()} processes, the layout {layout.model_dump(exclude_defaults=True)} has "
            f"{layout.num_processes}; start as many, or change the layout"
        )
    kind = torch.device(device).type
    outer = (layout.pipeline, layout.data_replicate)
    names = ("pipeline", "replicate", "shard")
    mesh = init_device_mesh(kind, (*outer, layout.shard_size, layout.tensor), mesh_dim_names=(*names, "tensor"))
    expert_mesh = context_mesh = None
    if layout.expert > 1:
        sizes = (*outer, layout.shard_size // layout.expert, layout.expert)
        expert_mesh = init_device_mesh(kind, sizes, mesh_dim_names=(*names, "expert"))
    if layout.context > 1:
        sizes = (*outer, layout.data_shard, layout.context, layout.tensor)
        whole = init_device_mesh(kind, sizes, mesh_dim_names=(*names, "context", "tensor"))
        context_mesh = whole["context"]
    state_group = dist.new_group(backend="gloo")
    return Ranks(layout, dist.get_rank(), device, mesh, expert_mesh, context_mesh, state_group)


def _join(device: str) -> None:
    missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ResourceError(
            f"the layout has several processes, but {', '.join(missing)} are not set; start them with torchrun "
            "(python -m torch.distributed.run --nproc-per-node N -m modelmill.tasks.lm.launch ...) or by a compute file"
        )
    backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
    join_group(backend)
