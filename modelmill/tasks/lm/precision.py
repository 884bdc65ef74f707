"""A run's precision → the type that sharded weights are gathered in, the context that forward passes run in, and how
linear layers multiply while they are trained."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from modelmill.tasks.lm.float8 import check_device
from modelmill.tasks.lm.forwards import replaced_forwards
from modelmill.tasks.lm.parallel.matrices import product
from modelmill.tasks.lm.settings import Precision


def gathered_type(precision: Precision) -> torch.dtype:
    """What layers are gathered in: the type that autocast would turn their matrices into anyway."""
    return torch.float32 if precision == "fp32" else torch.bfloat16


def forward_precision(precision: Precision, device: str) -> AbstractContextManager[Any]:
    """For forward passes of training and of all that measures the model beside it, so that figures compare."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(torch.device(device).type, torch.bfloat16)


@contextmanager
def open_products(models: Sequence[Any], precision: Precision) -> Iterator[None]:
    """Within it, the linear layers of these models multiply in 8 bits where `precision` says so and gradients are
    computed: what is measured beside training has the precision that the model will be used in. Attention, routed
    experts, routers, norms, embedding and head stay in bf16 or float32.

    Raises:
        ResourceError: the models are on a GPU that has no such products.
    """
    layers = [layer for model in models for layer in model.model.layers] if precision == "fp8" else []
    linears: list[Any] = [module for layer in layers for module in layer.modules() if isinstance(module, nn.Linear)]
    if linears:
        check_device(linears[0].weight.device)
    for linear in linears:
        linear.in_float8 = True
    # Those that a tensor group cuts call `product` already.
    uncut = [linear for linear in linears if "forward" not in vars(linear)]
    try:
        with replaced_forwards(uncut, _by_product):
            yield
    finally:
        for linear in linears:
            del linear.in_float8


def _by_product(forward: Any) -> Callable[[Tensor], Tensor]:
    """In place of a linear layer's own forward."""
    return partial(product, forward.__self__)
