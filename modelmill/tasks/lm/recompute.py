"""The layers of a model → the same layers, which keep their inputs only and compute the rest again when it is needed.

torch's checkpoint goes around a layer's forward and leaves its hooks outside, so that FSDP's run once.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch.utils.checkpoint import checkpoint


@contextmanager
def open_recomputation(models: Sequence[Any], wanted: bool) -> Iterator[None]:
    """Within it, the backward pass of each layer of these models repeats its forward pass first, if `wanted`.

    The bits stay the same: nothing in a layer is random.
    """
    layers = [layer for model in models for layer in model.model.layers] if wanted else []
    forwards = [vars(layer).get("forward") for layer in layers]
    for layer in layers:
        layer.forward = _recomputed(layer.forward)
    try:
        yield
    finally:
        for layer, forward in zip(layers, forwards, strict=True):
            del layer.forward
            if forward is not None:
                layer.forward = forward


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*arguments: Any, **named: Any) -> Any:
        return checkpoint(forward, *arguments, use_reentrant=False, preserve_rng_state=False, **named)

    return run
