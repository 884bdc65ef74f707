"""Modules and a wrapper → the same modules with wrapped forwards, for a while. Hooks stay outside."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any


@contextmanager
def replaced_forwards(
    modules: Sequence[Any], wrap: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    """Within it, `wrap(forward)` is each module's forward."""
    before = [vars(module).get("forward") for module in modules]
    for module in modules:
        module.forward = wrap(module.forward)
    try:
        yield
    finally:
        for module, forward in zip(modules, before, strict=True):
            del module.forward
            if forward is not None:
                module.forward = forward
