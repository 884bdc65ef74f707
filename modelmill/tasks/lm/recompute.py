"""The layers of a model → the same layers, which keep less for the backward pass and compute the rest again.

torch's checkpoint goes around a layer's forward and leaves its hooks outside, so that FSDP's run once.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import (
    SAC_IGNORED_OPS,
    checkpoint,
    create_selective_checkpoint_contexts,
    noop_context_fn,
)

from modelmill.tasks.lm.forwards import replaced_forwards
from modelmill.tasks.lm.parallel import matrices  # noqa: F401 (it defines one of the products)
from modelmill.tasks.lm.settings import ActivationCheckpointing

_aten: Any = torch.ops.aten
PRODUCTS = [
    _aten.mm.default,
    _aten.addmm.default,
    _aten._scaled_mm.default,
    _aten._grouped_mm.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.modelmill.scattered_product.default,
]
"""What selective checkpointing keeps: matrix products and attention, nearly all of a layer's work."""
# FSDP marks what it does for the profiler; within the backward pass that is more.
_marks: Any = torch.ops.profiler
SAC_IGNORED_OPS.update([_marks._record_function_enter_new.default, _marks._record_function_exit._RecordFunction])


@contextmanager
def open_recomputation(models: Sequence[Any], kind: ActivationCheckpointing) -> Iterator[None]:
    """Within it, the backward pass of each layer of these models repeats its forward pass first, or the cheap part.

    The bits stay the same: nothing in a layer is random.
    """
    layers = [layer for model in models for layer in model.model.layers] if kind != "none" else []
    with replaced_forwards(layers, partial(_recomputed, kind)):
        yield


def _recomputed(kind: ActivationCheckpointing, forward: Callable[..., Any]) -> Callable[..., Any]:
    contexts = partial(create_selective_checkpoint_contexts, PRODUCTS) if kind == "selective" else noop_context_fn

    def run(*arguments: Any, **named: Any) -> Any:
        return checkpoint(
            forward, *arguments, use_reentrant=False, preserve_rng_state=False, context_fn=contexts, **named
        )

    return run
