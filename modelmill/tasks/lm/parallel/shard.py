"""A whole model and a layout → this process's shards of it; a shard ↔ the whole tensor.

torch's own fully_shard and DTensor do it. The model's parts keep their names, so that checkpoints fit any layout.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from modelmill.tasks.lm.parallel.experts import deal_out_experts, expert_layers
from modelmill.tasks.lm.parallel.matrices import cut_matrices
from modelmill.tasks.lm.parallel.ranks import Ranks
from modelmill.tasks.lm.parallel.sequence import share_rows
from modelmill.tasks.lm.parallel.vocabulary import ShardedHead, cut_by_entries, embed_own_entries
from modelmill.tasks.lm.pipeline.run import Pipeline
from modelmill.tasks.lm.pipeline.split import StagePart
from modelmill.tasks.lm.pipeline.stage import Stage, keep_parts


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
    if layout.sharing_size > 1:
        share_rows(model, bodies, ranks)
    if layout.tensor > 1:
        cut_matrices(model, ranks)
        cut_vocabulary(model, ranks)
    if layout.expert_group_size > 1:
        deal_out_experts(model, ranks)
    if stages:
        _give_memory_to_stages(model, stages, ranks, compute_dtype)
        model.pipeline = Pipeline(stages, ranks)
        return
    if _weights_mesh(ranks).size() > 1:
        _shard_weights(model, [model.model], ranks, compute_dtype)
        _shard_head(model, ranks)
    model.to_empty(device=ranks.device)
    model.model.rotary_emb = _rotary(model, ranks)
    if model.lm_head is not None:
        weight = model.model.embed_tokens.weight if model.config.tie_word_embeddings else model.lm_head.weight
        model.lm_head = ShardedHead(weight, _tensor_mesh(ranks))


def cut_vocabulary(model: Any, ranks: Ranks) -> None:
    """Cut embedding and head, where a model has them, by vocabulary over the tensor group; of a tied pair the
    embedding, which the head then takes."""
    assert ranks.mesh is not None
    mesh = ranks.mesh["tensor"]
    if model.model.embed_tokens is not None:
        cut_by_entries(model.model.embed_tokens, mesh)
        embed_own_entries(model.model.embed_tokens, mesh)
    if model.lm_head is not None and not model.config.tie_word_embeddings:
        cut_by_entries(model.lm_head, mesh)


def _tensor_mesh(ranks: Ranks) -> DeviceMesh | None:
    assert ranks.mesh is not None
    return ranks.mesh["tensor"] if ranks.layout.tensor > 1 else None


def _give_memory_to_stages(model: Any, stages: Sequence[Stage], ranks: Ranks, compute_dtype: torch.dtype) -> None:
    """The head is one of the last stage's weights: gathered once a step, as all of a pipeline."""
    if model.lm_head is not None:
        head = ShardedHead(model.lm_head.weight, _tensor_mesh(ranks))
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
    reshard, by_vocabulary = ranks.layout.pipeline == 1, _cut_by_vocabulary(model, roots)
    for module, processes, precision in modules:
        sharded: FSDPModule = fully_shard(
            module,
            mesh=processes,
            mp_policy=precision,
            reshard_after_forward=reshard,
            shard_placement_fn=lambda parameter: Shard(1) if parameter in by_vocabulary else None,
        )
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)


def _cut_by_vocabulary(model: Any, roots: Sequence[nn.Module]) -> set[Any]:
    """Embedding and head where a tensor group cuts them by vocabulary: FSDP then cuts them by width, so that what it
    gathers are consecutive entries."""
    owners = [getattr(root, name, None) for root in (model.model, *roots) for name in ("embed_tokens", "lm_head")]
    return {owner.weight for owner in owners if owner is not None and isinstance(owner.weight, DTensor)}


def _shard_head(model: Any, ranks: Ranks) -> None:
    """FSDP's cut of a head that is no part of the body."""
    if model.config.tie_word_embeddings or model.lm_head is None:
        return
    outer = ("replicate", "shard") if ranks.layout.data_replicate > 1 else ("shard",)
    cuts: dict[str, Any] = {"replicate": Replicate(), "shard": Shard(0)}
    if ranks.layout.tensor > 1:
        outer, cuts = (*outer, "tensor"), cuts | {"shard": Shard(1), "tensor": Shard(0)}
    assert ranks.mesh is not None
    mesh = ranks.mesh[outer]
    weight = torch.empty(model.lm_head.weight.shape, device="meta")
    placements = [cuts[name] for name in outer]
    model.lm_head.weight = nn.Parameter(distribute_tensor(weight, mesh, placements, src_data_rank=None))


def whole(tensor: Tensor) -> Tensor:
    """The whole tensor of a shard; every process must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_tensors(tensors: dict[str, Tensor], ranks: Ranks) -> Iterator[tuple[str, Tensor]]:
    """Whole tensors one after another, on the first process in its main memory; the others give nothing but help.

    Those of a pipeline's later stages are gathered there, then sent to the first process.
    """
    for name, tensor in tensors.items():
        if ranks.pipeline_rank == 0:
            value = whole(tensor)
            if ranks.is_first:
                yield name, value.cpu()
    for holder in range(1, ranks.layout.pipeline):
        yield from _sent(tensors, holder, ranks)


def _sent(tensors: dict[str, Tensor], holder: int, ranks: Ranks) -> Iterator[tuple[str, Tensor]]:
    """Whole tensors that the `holder`-th process of each pipeline has."""
    assert ranks.mesh is not None
    group, place = ranks.mesh["pipeline"].get_group(), ranks.pipeline_rank
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
