"""The spread stages of a process → one traced layer of each kind, dense or with experts."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from modelmill.tasks.lm.dry_run.config import LayoutFile
from modelmill.tasks.lm.dry_run.fake import dimension_names
from modelmill.tasks.lm.dry_run.trace import LayerTrace, local, trace_layer
from modelmill.tasks.lm.parallel.collectives import exchange
from modelmill.tasks.lm.parallel.ranks import Ranks
from modelmill.tasks.lm.pipeline.stage import Stage


def has_experts(layer: Any) -> bool:
    """Whether a decoder layer routes its tokens to experts."""
    return hasattr(layer.mlp, "experts")


def trace_layers(stages: Sequence[Stage], file: LayoutFile, ranks: Ranks) -> dict[bool, LayerTrace]:
    """A trace of the first layer with experts (key True) and of the first without (False), in bf16."""
    traces: dict[bool, LayerTrace] = {}
    for stage in stages:
        for layer in stage.model.layers:
            if (key := has_experts(layer)) in traces:
                continue
            hidden, rotary = _inputs(stage, file)
            with _balanced(layer.to(torch.bfloat16), ranks):
                traces[key] = trace_layer(layer, hidden, rotary, dimension_names(ranks))
    return traces


def _inputs(stage: Stage, file: LayoutFile) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Hidden states of one micro-batch on one process, and the rotary tables of its tokens in attention."""
    rows, width = file.layout.stages.micro_batch_rows, file.shape.hidden_size
    own = file.sequence_length // file.layout.sharing_size
    hidden = torch.empty(rows, own, width, dtype=torch.bfloat16, device="meta", requires_grad=True)
    positions = torch.empty(rows, file.sequence_length // file.layout.context, dtype=torch.int64, device="meta")
    return hidden, stage.model.rotary_emb(hidden, positions)


@contextmanager
def _balanced(layer: Any, ranks: Ranks) -> Iterator[None]:
    """Within it, every expert gets as many tokens as any other: how many it really gets depends on data.

    The rest is as in `parallel.experts`: pairs of token and expert travel by all-to-all, there and back.
    """
    if not has_experts(layer):
        yield
        return
    experts, mesh = layer.mlp.experts, ranks.expert_mesh
    parameters, forward = dict(experts._parameters), experts.forward
    experts._parameters.update({name: nn.Parameter(local(each.detach())) for name, each in parameters.items()})
    original: Any = type(experts).forward
    experts.forward = _balanced_forward(
        lambda *arguments: original(experts, *arguments), mesh["expert"].get_group() if mesh is not None else None
    )
    try:
        yield
    finally:
        experts._parameters.update(parameters)
        experts.forward = forward


def _balanced_forward(original: Callable[..., Tensor], group: Any) -> Callable[..., Tensor]:
    def forward(hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """hidden [T, D], chosen experts [T, K] and their weights [T, K] → [T, D]."""
        if group is None:
            return original(hidden, chosen, weights)
        order = chosen.flatten().argsort(stable=True)
        tokens = exchange(hidden[order // chosen.shape[1]], group)
        outputs = exchange(original(tokens, chosen.view(-1, 1), weights.new_ones(len(tokens), 1)), group)
        pairs = torch.empty_like(outputs).index_copy(0, order, outputs).view(*chosen.shape, -1)
        return (pairs * weights[..., None]).sum(1).to(hidden.dtype)

    return forward
