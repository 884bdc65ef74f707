"""A run's precision → the type that sharded weights are gathered in, and the context that forward passes run in."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from modelmill.tasks.lm.settings import Precision


def gathered_type(precision: Precision) -> torch.dtype:
    """What layers are gathered in: the type that autocast would turn their matrices into anyway."""
    return torch.bfloat16 if precision == "bf16" else torch.float32


def forward_precision(precision: Precision, device: str) -> AbstractContextManager[Any]:
    """For forward passes of training and of all that measures the model beside it, so that figures compare."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(torch.device(device).type, torch.bfloat16)
