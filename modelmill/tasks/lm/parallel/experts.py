"""A mixture of experts and a group of processes → the same layer with the experts dealt out over the group.

Every process has tokens of its own, also in a tensor group; each token travels to the processes that hold its experts
and back by all-to-all.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Shard, distribute_tensor

from modelmill.tasks.lm.parallel.collectives import exchange
from modelmill.tasks.lm.parallel.matrices import local
from modelmill.tasks.lm.parallel.ranks import Ranks

# Shapes: T tokens of this process, K experts of a token, S = T · K pairs of token and expert, D width.


def expert_layers(model: Any) -> list[Any]:
    """The modules that hold routed experts."""
    found = (getattr(getattr(layer, "mlp", None), "experts", None) for layer in model.model.layers)
    return [experts for experts in found if experts is not None]


def deal_out_experts(model: Any, ranks: Ranks) -> None:
    """Cut every layer's experts over the expert group, or over the tensor group where there is one, in place."""
    processes, dimension = (ranks.mesh, "tensor") if ranks.layout.tensor > 1 else (ranks.expert_mesh, "expert")
    assert processes is not None
    mesh = processes[dimension]
    for experts in expert_layers(model):
        for name, parameter in list(experts.named_parameters(recurse=False)):
            cut = distribute_tensor(parameter.detach(), mesh, [Shard(0)], src_data_rank=None)
            experts.register_parameter(name, nn.Parameter(cut))
        experts.num_experts //= mesh.size()
        experts.forward = _by_exchange(experts, mesh)


def _by_exchange(experts: Any, mesh: DeviceMesh) -> Callable[..., Tensor]:
    run, group = _runner(experts), mesh.get_group()

    def forward(hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """hidden [T, D], chosen experts [T, K] and their weights [T, K] → [T, D]."""
        order = chosen.flatten().argsort(stable=True)
        counts = torch.bincount(chosen.flatten(), minlength=experts.num_experts * mesh.size())
        send_counts = counts.view(mesh.size(), experts.num_experts)
        receive_counts = torch.empty_like(send_counts)
        dist.all_to_all_single(receive_counts, send_counts, group=group)
        send, receive = torch.stack([send_counts.sum(1), receive_counts.sum(1)]).tolist()
        tokens = exchange(hidden[order // chosen.shape[1]], group, send, receive)
        numbers = torch.arange(experts.num_experts, device=hidden.device).repeat(mesh.size())
        outputs = exchange(run(tokens, numbers.repeat_interleave(receive_counts.flatten())), group, receive, send)
        pairs = torch.empty_like(outputs).index_copy(0, order, outputs).view(*chosen.shape, -1)
        return (pairs * weights[..., None]).sum(1).to(hidden.dtype)

    return forward


def _runner(experts: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """The experts' own forward on this process's experts: tokens [S, D], each with the number of one expert [S]."""
    original = experts.forward

    def run(tokens: Tensor, numbers: Tensor) -> Tensor:
        rows = len(tokens)
        if rows == 0:
            # One token of zeros keeps the layer in the graph: FSDP's collectives must match in the backward pass.
            tokens, numbers = tokens.sum(0, keepdim=True), numbers.new_zeros(1)
        with _local_parameters(experts):
            return original(tokens, numbers[:, None], tokens.new_ones(len(tokens), 1))[:rows]

    return run


@contextmanager
def _local_parameters(module: nn.Module) -> Iterator[None]:
    """Within it, the module's own parameters are plain tensors: this process's parts."""
    parameters = dict(module._parameters)
    module._parameters.update({name: local(parameter) for name, parameter in parameters.items()})
    try:
        yield
    finally:
        module._parameters.update(parameters)
