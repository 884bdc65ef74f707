"""A model and a tensor group → the same model with its matrices cut over the group, by transformers' own table.

transformers says for every class which matrices are cut by rows and which by columns (`base_model_tp_plan`), and
torch's styles carry that out. Norms, embedding and head stay whole on each process of the group; the loss is shared
out instead (see `ranks`), so no product with the head is computed twice.
"""

import re
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from modelmill.tasks.lm.parallel.ranks import Ranks

_STYLES = {"colwise": ColwiseParallel, "rowwise": RowwiseParallel}


def cut_matrices(model: Any, ranks: Ranks) -> None:
    """Cut the matrices of attention and of dense feed-forward layers, in place."""
    assert ranks.mesh is not None
    for module, style in _planned(model):
        if style in _STYLES and isinstance(module, nn.Linear):
            parallelize_module(module, ranks.mesh["tensor"], _STYLES[style](), src_data_rank=None)


def partial_parameters(model: Any) -> list[nn.Parameter]:
    """Whole parameters that each process of a tensor group uses for its own heads only (norms of queries and keys):
    their gradients must be summed over the group."""
    return [
        parameter
        for module, style in _planned(model)
        if style == "replicated_with_grad_allreduce"
        for parameter in module.parameters()
    ]


def local(tensor: Any) -> Any:
    """This process's part of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _planned(model: Any) -> Iterator[tuple[nn.Module, str]]:
    """Modules that transformers' table names, with the style it gives them."""
    plan = model.config.base_model_tp_plan
    for name, module in model.model.named_modules():
        style = plan.get(re.sub(r"\.\d+(?=\.|$)", ".*", name))
        if style is not None:
            yield module, style
