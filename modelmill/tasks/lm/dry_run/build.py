"""A layout file and a pipeline rank → that process's stages on the meta device with all shardings, and their bytes.

The cuts are the engine's own: matrices, vocabulary, tokens, experts, and FSDP2 over the rest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.initialization import no_init_weights

from modelmill.tasks.lm.dry_run.config import LayoutFile
from modelmill.tasks.lm.dry_run.trace import local
from modelmill.tasks.lm.model import model_config
from modelmill.tasks.lm.parallel.experts import deal_out_experts, expert_layers
from modelmill.tasks.lm.parallel.matrices import cut_matrices
from modelmill.tasks.lm.parallel.ranks import Ranks
from modelmill.tasks.lm.parallel.sequence import share_rows
from modelmill.tasks.lm.parallel.shard import cut_vocabulary
from modelmill.tasks.lm.pipeline.split import StagePart, stage_parts
from modelmill.tasks.lm.pipeline.stage import Stage


@dataclass(frozen=True)
class Weights:
    """Parameters of one process. sharded: those in its own shards. gathered: all that it computes with in a step.
    resident: of these, as many as are gathered at once (all in a pipeline, else two layers and what is no layer)."""

    sharded: int
    gathered: int
    resident: int


@dataclass(frozen=True)
class BuiltRank:
    """What building the first process of a pipeline rank told: its parts, and for each layer whether it has experts."""

    rank: int
    weights: Weights
    parts: list[StagePart]
    kinds: dict[int, list[bool]]


def spread_stages(file: LayoutFile, ranks: Ranks, rank: int) -> list[Stage]:
    """The stages of pipeline rank `rank`, cut over tensor, context and expert groups, not yet over FSDP's.

    They are cut as for the first process of a stage; which stage it is makes no difference to its groups.
    """
    size = file.layout.pipeline
    parts = stage_parts(
        file.shape, size * file.layout.stages.num_chunks, file.sequence_length, file.layout.stages.balance
    )
    model = meta_model(file)
    if file.layout.context > 1:
        share_rows(model, [], ranks)
    stages = [Stage(model, part) for part in parts[rank::size]]
    for stage in stages:
        _spread(stage, file, ranks)
    return stages


def meta_model(file: LayoutFile) -> PreTrainedModel:
    """The whole model without memory."""
    with torch.device("meta"), no_init_weights():
        return AutoModelForCausalLM.from_config(model_config(file.shape))


def _spread(stage: Stage, file: LayoutFile, ranks: Ranks) -> None:
    if file.layout.tensor > 1:
        cut_matrices(stage, ranks)
        cut_vocabulary(stage, ranks)
    if file.layout.expert_group_size > 1 and expert_layers(stage):
        deal_out_experts(stage, ranks)


def shard_weights(stages: Sequence[Stage], ranks: Ranks) -> Weights:
    """Put FSDP2 over stages that were spread, and count the parameters before and after it."""
    assert ranks.mesh is not None
    layers = [_count([layer]) for stage in stages for layer in stage.model.layers]
    gathered = _count(stages)
    resident = gathered if ranks.layout.pipeline > 1 else gathered - sum(layers) + sum(sorted(layers)[-2:])
    replicated = ranks.layout.data_replicate > 1
    names: Any = ("replicate", "shard") if replicated else "shard"
    precision = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    expert_mesh = ranks.expert_mesh
    for stage in stages:
        if expert_mesh is not None:
            for experts in expert_layers(stage):
                fully_shard(experts, mesh=expert_mesh[names], mp_policy=precision, reshard_after_forward=False)
        for module in (*stage.model.layers, stage):
            fully_shard(module, mesh=ranks.mesh[names], mp_policy=precision, reshard_after_forward=False)
    return Weights(sharded=_count(stages), gathered=gathered, resident=resident)


def _count(modules: Sequence[nn.Module]) -> int:
    """Numbers in this process's parts of all parameters."""
    return sum(local(parameter).numel() for module in modules for parameter in module.parameters())
