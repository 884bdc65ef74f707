"""A run's precision → the type that sharded weights are gathered in, the context that forward passes run in, and how
linear layers multiply while they are trained."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from modelmill.tasks.lm.float8 import check_device
from modelmill.tasks.lm.parallel.matrices import Product
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
    uncut = [linear for linear in linears if not isinstance(linear, Product)]
    for linear in uncut:
        linear.__class__ = Product
    for linear in linears:
        linear.in_float8 = True
    try:
        yield
    finally:
        for linear in linears:
            del linear.in_float8
        for linear in uncut:
            linear.__class__ = nn.Linear
