"""A whole model and a layout → this process's shards of it; a shard ↔ the whole tensor.

torch's own fully_shard and DTensor do it. The model's parts keep their names, so that checkpoints fit any layout.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from modelmill.tasks.lm.parallel.collectives import sum_gradient
from modelmill.tasks.lm.parallel.experts import deal_out_experts, expert_layers
from modelmill.tasks.lm.parallel.matrices import cut_matrices
from modelmill.tasks.lm.parallel.ranks import Ranks
from modelmill.tasks.lm.parallel.sequence import share_rows


class ShardedHead(nn.Module):
    """The output head, whose matrix [vocabulary, width] may be sharded and is gathered where it is used."""

    def __init__(self, weight: nn.Parameter, tensor_group: Any) -> None:
        super().__init__()
        self.weight = weight
        self.tensor_group = tensor_group

    def whole(self) -> Tensor:
        """The whole matrix; its gradient is summed over all processes, each of which has labels of its own."""
        weight: Tensor = self.weight
        if isinstance(weight, DTensor):
            gathered = weight.redistribute(placements=[Replicate()] * weight.device_mesh.ndim)
            weight = gathered.to_local(grad_placements=[Partial()] * weight.device_mesh.ndim)
        return sum_gradient(weight, self.tensor_group) if self.tensor_group else weight

    def forward(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.whole())


def spread_model(model: Any, ranks: Ranks, *, compute_dtype: torch.dtype = torch.float32) -> None:
    """Cut a model on the meta device over the processes and give it memory, without values, in place."""
    assert ranks.mesh is not None
    layout = ranks.layout
    if layout.context > 1:
        share_rows(model, ranks)
    if layout.tensor > 1:
        cut_matrices(model, ranks)
        _sum_hidden_gradients(model, ranks)
    if layout.expert_group_size > 1:
        deal_out_experts(model, ranks)
    if _weights_mesh(ranks).size() > 1:
        _shard_weights(model, ranks, compute_dtype)
    model.to_empty(device=ranks.device)
    model.model.rotary_emb = type(model.model.rotary_emb)(config=model.config).to(ranks.device)
    weight = model.model.embed_tokens.weight if model.config.tie_word_embeddings else model.lm_head.weight
    model.lm_head = ShardedHead(weight, ranks.mesh["tensor"].get_group() if layout.tensor > 1 else None)


def _sum_hidden_gradients(model: Any, ranks: Ranks) -> None:
    """The processes of a tensor group have the same hidden states and each its own labels."""
    assert ranks.mesh is not None
    group = ranks.mesh["tensor"].get_group()

    def sum_gradients(_module: Any, _arguments: Any, output: Any) -> Any:
        output.last_hidden_state = sum_gradient(output.last_hidden_state, group)
        return output

    model.model.register_forward_hook(sum_gradients)


def _weights_mesh(ranks: Ranks, experts: bool = False) -> DeviceMesh:
    """The processes among which FSDP cuts weights, one dimension, or two with replicas."""
    mesh = ranks.expert_mesh if experts else ranks.mesh
    assert mesh is not None
    return mesh["replicate", "shard"] if ranks.layout.data_replicate > 1 else mesh["shard"]


def _shard_weights(model: Any, ranks: Ranks, compute_dtype: torch.dtype) -> None:
    """FSDP2 over experts, layers and the rest. Gradients are summed, as losses are divided by all labels already.

    Layers are gathered in `compute_dtype`, which autocast would turn their matrices into anyway; inputs keep their
    type, so the residual stream is as on one process. Gradients are summed in float32.
    """
    mesh = _weights_mesh(ranks)
    in_layers = MixedPrecisionPolicy(compute_dtype, torch.float32, cast_forward_inputs=False)
    modules = [(module, mesh) for module in (*model.model.layers, model.model)]
    if ranks.layout.expert > 1:
        modules = [(module, _weights_mesh(ranks, experts=True)) for module in expert_layers(model)] + modules
    for module, processes in modules:
        precision = MixedPrecisionPolicy() if module is model.model else in_layers
        sharded: FSDPModule = fully_shard(module, mesh=processes, mp_policy=precision, reshard_after_forward=True)
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)
    if not model.config.tie_word_embeddings:
        placements = [Replicate()] * (mesh.ndim - 1) + [Shard(0)]
        weight = distribute_tensor(model.lm_head.weight.detach(), mesh, placements, src_data_rank=None)
        model.lm_head.weight = nn.Parameter(weight)


def whole(tensor: Tensor) -> Tensor:
    """The whole tensor of a shard; every process must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_tensors(tensors: dict[str, Tensor], ranks: Ranks) -> Iterator[tuple[str, Tensor]]:
    """Whole tensors one after another, on the first process in its main memory; the others give nothing but help."""
    for name, tensor in tensors.items():
        value = whole(tensor)
        if ranks.is_first:
            yield name, value.cpu()


@torch.no_grad()
def set_whole(target: Tensor, value: Tensor) -> None:
    """Copy a whole tensor, or this process's part of it, into a parameter."""
    if isinstance(target, DTensor):
        sizes, starts = compute_local_shape_and_global_offset(target.shape, target.device_mesh, target.placements)
        for dimension, (start, size) in enumerate(zip(starts, sizes, strict=True)):
            value = value.narrow(dimension, min(start, value.shape[dimension]), size)
        target = target.to_local()
    target.copy_(value)
