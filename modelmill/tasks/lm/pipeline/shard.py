"""The stages of this process and a mesh of data-parallel processes → the same stages with FSDP2 shards of weights."""

from collections.abc import Sequence

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from modelmill.tasks.lm.pipeline.stage import Stage


def shard_stages(
    stages: Sequence[Stage], mesh: DeviceMesh, compute_dtype: torch.dtype = torch.float32
) -> Sequence[Stage]:
    """Shard every layer, then what is left of each stage, in place.

    Weights are gathered once a step and kept through all micro-batches (Llama 3.1 does so too), and gradients are added
    up in float32 before they are scattered. Gradients of the processes are summed, not averaged: the loss that each of
    them hands over is already divided by the labels of all.
    """
    precision = MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=torch.float32)
    for stage in stages:
        for module in (*stage.model.layers, stage):
            sharded: FSDPModule = fully_shard(module, mesh=mesh, mp_policy=precision, reshard_after_forward=False)
            sharded.set_gradient_divide_factor(1.0)
            sharded.set_force_sum_reduction_for_comms(True)
    return stages
