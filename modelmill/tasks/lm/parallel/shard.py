"""A whole model and a layout → this process's shards of it; a shard ↔ the whole tensor.

torch's own fully_shard and DTensor do it. The model's parts keep their names, so that checkpoints fit any layout.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
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
from modelmill.tasks.lm.pipeline.run import Pipeline
from modelmill.tasks.lm.pipeline.split import StagePart
from modelmill.tasks.lm.pipeline.stage import Stage, keep_parts


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


def spread_model(
    model: Any, ranks: Ranks, *, parts: Sequence[StagePart] = (), compute_dtype: torch.dtype = torch.float32
) -> None:
    """Cut a model on the meta device over the processes and give it memory, without values, in place.

    parts: what this process holds of a model cut into pipeline stages, which `model.pipeline` runs then.
    """
    assert ranks.mesh is not None
    layout = ranks.layout
    if parts:
        keep_parts(model, parts)
    stages = [Stage(model, part, compute_dtype) for part in parts]
    bodies = [stage.model for stage in stages] or [model.model]
    if layout.context > 1:
        share_rows(model, bodies, ranks)
    if layout.tensor > 1:
        cut_matrices(model, ranks)
    if layout.tensor > 1 and (not parts or parts[-1].has_head):
        _sum_hidden_gradients(bodies[-1], ranks)
    if layout.expert_group_size > 1:
        deal_out_experts(model, ranks)
    group = ranks.mesh["tensor"].get_group() if layout.tensor > 1 else None
    if stages:
        _give_memory_to_stages(model, stages, group, ranks, compute_dtype)
        model.pipeline = Pipeline(stages, ranks)
        return
    if _weights_mesh(ranks).size() > 1:
        _shard_weights(model, [model.model], ranks, compute_dtype)
        _shard_head(model, ranks)
    model.to_empty(device=ranks.device)
    model.model.rotary_emb = _rotary(model, ranks)
    weight = model.model.embed_tokens.weight if model.config.tie_word_embeddings else model.lm_head.weight
    model.lm_head = ShardedHead(weight, group)


def _give_memory_to_stages(
    model: Any, stages: Sequence[Stage], group: Any, ranks: Ranks, compute_dtype: torch.dtype
) -> None:
    """The head is one of the last stage's weights: gathered once a step, as all of a pipeline."""
    if model.lm_head is not None:
        head = ShardedHead(model.lm_head.weight, group)
        model.lm_head = stages[-1].lm_head = head
    if _weights_mesh(ranks).size() > 1:
        _shard_weights(model, stages, ranks, compute_dtype)
    for stage in stages:
        stage.to_empty(device=ranks.device)
    rotary = _rotary(model, ranks)
    for body in (model.model, *(stage.model for stage in stages)):
        body.rotary_emb = rotary


def _rotary(model: Any, ranks: Ranks) -> Any:
    return type(model.model.rotary_emb)(config=model.config).to(ranks.device)


def _sum_hidden_gradients(body: Any, ranks: Ranks) -> None:
    """The processes of a tensor group have the same hidden states and each its own labels."""
    assert ranks.mesh is not None
    group = ranks.mesh["tensor"].get_group()

    def sum_gradients(_module: Any, _arguments: Any, output: Any) -> Any:
        output.last_hidden_state = sum_gradient(output.last_hidden_state, group)
        return output

    body.register_forward_hook(sum_gradients)


def _weights_mesh(ranks: Ranks, experts: bool = False) -> DeviceMesh:
    """The processes among which FSDP cuts weights, one dimension, or two with replicas."""
    mesh = ranks.expert_mesh if experts else ranks.mesh
    assert mesh is not None
    return mesh["replicate", "shard"] if ranks.layout.data_replicate > 1 else mesh["shard"]


def _shard_weights(model: Any, roots: Sequence[nn.Module], ranks: Ranks, compute_dtype: torch.dtype) -> None:
    """FSDP2 over experts, layers and the rest, which `roots` hold. Gradients are summed, as losses are divided by all
    labels already.

    Layers are gathered in `compute_dtype`, which autocast would turn their matrices into anyway; inputs keep their
    type, so the residual stream is as on one process. Gradients are summed in float32. In a pipeline, weights are
    gathered once a step and kept through all micro-batches (as Llama 3.1 does).
    """
    mesh, in_float32 = _weights_mesh(ranks), MixedPrecisionPolicy()
    in_layers = MixedPrecisionPolicy(compute_dtype, torch.float32, cast_forward_inputs=False)
    modules = [(layer, mesh, in_layers) for layer in model.model.layers] + [(root, mesh, in_float32) for root in roots]
    if ranks.layout.expert > 1:
        of_experts = _weights_mesh(ranks, experts=True)
        modules = [(module, of_experts, in_layers) for module in expert_layers(model)] + modules
    reshard = ranks.layout.pipeline == 1
    for module, processes, precision in modules:
        sharded: FSDPModule = fully_shard(module, mesh=processes, mp_policy=precision, reshard_after_forward=reshard)
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)


def _shard_head(model: Any, ranks: Ranks) -> None:
    mesh = _weights_mesh(ranks)
    if not model.config.tie_word_embeddings:
        placements = [Replicate()] * (mesh.ndim - 1) + [Shard(0)]
        weight = distribute_tensor(model.lm_head.weight.detach(), mesh, placements, src_data_rank=None)
        model.lm_head.weight = nn.Parameter(weight)


def whole(tensor: Tensor) -> Tensor:
    """The whole tensor of a shard; every process must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_tensors(tensors: dict[str, Tensor], ranks: Ranks) -> Iterator[tuple[str, Tensor]]:
    """Whole tensors one after another, on the first process in its main memory; the others give nothing but help.

    Those of a pipeline's later stages are gathered there, then sent to the first process.
    """
    for name, tensor in tensors.items():
        if ranks.layout.pipeline == 1 or ranks.rank < ranks.layout.stage_size:
            value = whole(tensor)
            if ranks.is_first:
                yield name, value.cpu()
    for holder in range(1, ranks.layout.pipeline):
        yield from _sent(tensors, holder, ranks)


def _sent(tensors: dict[str, Tensor], holder: int, ranks: Ranks) -> Iterator[tuple[str, Tensor]]:
    """Whole tensors that the `holder`-th process of each pipeline has."""
    assert ranks.mesh is not None
    group, place = ranks.mesh["pipeline"].get_group(), ranks.rank // ranks.layout.stage_size
    facts = [[(name, tensor.shape, tensor.dtype) for name, tensor in tensors.items()]]
    dist.broadcast_object_list(facts, group=group, group_src=holder, device=torch.device("cpu"))
    for name, shape, dtype in facts[0]:
        if place == holder:
            value = whole(tensors[name])
            if ranks.rank % ranks.layout.stage_size == 0:
                dist.send(value.cpu().contiguous(), group=group, group_dst=0)
        elif ranks.is_first:
            value = torch.empty(shape, dtype=dtype)
            dist.recv(value, group=group, group_src=holder)
            yield name, value


@torch.no_grad()
def set_whole(target: Tensor, value: Tensor) -> None:
    """Copy a whole tensor, or this process's part of it, into a parameter."""
    if isinstance(target, DTensor):
        sizes, starts = compute_local_shape_and_global_offset(target.shape, target.device_mesh, target.placements)
        for dimension, (start, size) in enumerate(zip(starts, sizes, strict=True)):
            value = value.narrow(dimension, min(start, value.shape[dimension]), size)
        target = target.to_local()
    target.copy_(value)
