"""Embedding and output head [vocabulary, width] → their parts on the processes of a tensor group, and their loss.

Each process has consecutive entries of the vocabulary, and makes the logits of these for all tokens of the group; what
crosses it are three numbers a label, not logits (arXiv:1909.08053 §3).

Shapes: R rows, T tokens of a row, N = R·T positions, D width, V vocabulary, n processes of the group.
"""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

from modelmill.tasks.lm.parallel.collectives import gather_sequence, scatter_sequence


class HeadPart(NamedTuple):
    """This process's entries of the output head, weight [V / n, D], from number `first` on."""

    weight: Tensor
    first: int
    group: dist.ProcessGroup


class ShardedHead(nn.Module):
    """The output head, whose matrix [V, D] may be sharded and is gathered where it is used."""

    def __init__(self, weight: nn.Parameter, tensor_mesh: DeviceMesh | None) -> None:
        super().__init__()
        self.weight = weight
        self.tensor_mesh = tensor_mesh

    def part(self) -> Tensor | HeadPart:
        """What this process computes the loss with: all of the matrix, or its entries of it where there is a tensor
        group. The gradient is summed over the processes that have the same."""
        weight = self._gathered()
        if self.tensor_mesh is None:
            return weight
        return HeadPart(weight, self.tensor_mesh.get_local_rank() * len(weight), self.tensor_mesh.get_group())

    def _gathered(self) -> Tensor:
        weight: Tensor = self.weight
        if not isinstance(weight, DTensor):
            return weight
        kept = [name == "tensor" for name in weight.device_mesh.mesh_dim_names or ()]
        gathered = weight.redistribute(placements=[Shard(0) if keep else Replicate() for keep in kept])
        return gathered.to_local(grad_placements=[Shard(0) if keep else Partial() for keep in kept])

    def forward(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, whole_head(self.part()))


def head_part(head: Any) -> Any:
    """What a head's module gives for computing: its `part()`, or the weight of an ordinary one."""
    return head.weight if isinstance(head, nn.Linear) else head.part()


def whole_head(head: Tensor | HeadPart) -> Tensor:
    """All of the matrix [V, D]; its gradient is summed over the group, each process of which has labels of its own."""
    return gather_sequence(head.weight[None], head.group)[0] if isinstance(head, HeadPart) else head


def cut_by_entries(module: Any, mesh: DeviceMesh) -> None:
    """Leave of an embedding's or a head's matrix this process's entries, in place."""
    module.weight = nn.Parameter(distribute_tensor(module.weight.detach(), mesh, [Shard(0)], src_data_rank=None))


def embed_own_entries(embedding: Any, mesh: DeviceMesh) -> None:
    """Make an embedding that was cut look up its entries only: ids [R, T] → this process's tokens [R, T / n, D]."""
    group, number = mesh.get_group(), mesh.get_local_rank()

    def forward(ids: Tensor) -> Tensor:
        table: Any = embedding.weight
        table = table.to_local() if isinstance(table, DTensor) else table
        first, padding = number * len(table), embedding.padding_idx
        entries = ids - first
        own = (entries >= 0) & (entries < len(table))
        if padding is not None:
            padding = padding - first if 0 <= padding - first < len(table) else None
        found = F.embedding(entries.where(own, 0), table, padding)
        return scatter_sequence(found * own[..., None], group)

    embedding.forward = forward


def logits_of(hidden: Tensor, head: Tensor | HeadPart) -> Tensor:
    """Hidden states [..., D], alike on the processes of a head's group → logits [..., V] on each, without gradients."""
    if not isinstance(head, HeadPart):
        return hidden @ head.T
    own = (hidden @ head.weight.T).contiguous()
    parts = [torch.empty_like(own) for _ in range(head.group.size())]
    dist.all_gather(parts, own, group=head.group)
    return torch.cat(parts, dim=-1)


def part_cross_entropy_sum(hidden: Tensor, head: HeadPart, labels: Tensor, ignore: int, chunk: int) -> Tensor:
    """Sum of -log p(label) over this process's labels [N]: hidden [N, D], alike in the group, as many labels on each.

    Every process adds to the gradient of `hidden` what its entries of the vocabulary bring, for all labels of the
    group; the sum of these over the group is the whole.
    """
    everyone = labels.clone()
    dist.all_reduce(everyone, dist.ReduceOp.MAX, group=head.group)  # `ignore` lies below all token ids
    if torch.is_grad_enabled():
        return _PartCrossEntropy.apply(hidden, head.weight, head, labels, everyone, ignore, chunk)  # pyright: ignore
    total = hidden.new_zeros((), dtype=torch.float32)
    for rows in (everyone != ignore).nonzero().squeeze(1).split(chunk):
        losses, _ = _losses(hidden[rows], head, everyone[rows])
        total += losses[labels[rows] != ignore].sum()
    return total


def _losses(inputs: Tensor, head: HeadPart, targets: Tensor) -> tuple[Tensor, Tensor]:
    """-log p(target) [n], and its gradient by the logits of this process's entries [n, V / n]."""
    logits = (inputs @ head.weight.T).float()
    highest = logits.amax(1)
    dist.all_reduce(highest, dist.ReduceOp.MAX, group=head.group)
    logits -= highest[:, None]
    entries = targets - head.first
    own = (entries >= 0) & (entries < len(head.weight))
    columns = entries.where(own, 0)[:, None]
    of_target = logits.gather(1, columns).squeeze(1) * own
    sums = torch.stack([logits.exp_().sum(1), of_target])
    dist.all_reduce(sums, group=head.group)
    gradient = logits.div_(sums[0][:, None])
    gradient.scatter_add_(1, columns, -own[:, None].to(gradient.dtype))
    return sums[0].log() - sums[1], gradient


class _PartCrossEntropy(torch.autograd.Function):
    """As the whole head's: gradients are made in the forward pass, chunk by chunk."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        head: HeadPart,
        labels: Tensor,
        everyone: Tensor,
        ignore: int,
        chunk: int,
    ) -> Tensor:
        total = hidden.new_zeros((), dtype=torch.float32)
        hidden_gradient, head_gradient = torch.zeros_like(hidden), torch.zeros_like(weight)
        for rows in (everyone != ignore).nonzero().squeeze(1).split(chunk):
            losses, gradient = _losses(hidden[rows], head, everyone[rows])
            total += losses[labels[rows] != ignore].sum()
            gradient = gradient.to(hidden.dtype)
            hidden_gradient[rows] = (gradient @ weight).to(hidden.dtype)
            head_gradient.addmm_(gradient.T, hidden[rows])
        ctx.save_for_backward(hidden_gradient, head_gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden_gradient, head_gradient = ctx.saved_tensors
        return hidden_gradient * gradients[0], head_gradient * gradients[0], None, None, None, None, None
