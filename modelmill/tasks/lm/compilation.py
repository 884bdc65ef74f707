"""The layers of a model → the same layers, compiled by torch for training steps (`torch.compile`, one graph a kind).

What lies between a layer's products (norms, rotary embedding, activation) becomes a few kernels. Attention by document
and experts stay as they are: their shapes change with the data.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from modelmill.tasks.errors import ResourceError
from modelmill.tasks.lm.forwards import replaced_forwards


@contextmanager
def open_compilation(models: Sequence[Any], wanted: bool) -> Iterator[None]:
    """Within it, the layers of these models are compiled, where gradients are computed: what is measured beside has
    other shapes.

    Raises:
        ResourceError: there is no C++ compiler.
    """
    layers = [layer for model in models for layer in model.model.layers] if wanted else []
    if layers:
        check_compiler()
    experts = [layer.mlp for layer in layers if hasattr(layer.mlp, "experts")]
    with ExitStack() as stack:
        stack.enter_context(replaced_forwards(experts, torch.compiler.disable))
        stack.enter_context(replaced_forwards(layers, _compiled))
        yield


def check_compiler() -> None:
    """Refuse a machine without a C++ compiler, which torch needs on a CPU as on a GPU.

    Raises:
        ResourceError: there is none.
    """
    if not has_compiler():
        raise ResourceError(
            f"train.compile needs a C++ compiler, and found no {_compiler()}; install one (Debian: apt-get install "
            "g++), name another one in CXX, or set train.compile: false"
        )


def has_compiler() -> bool:
    """Whether there is the compiler that torch would use."""
    return shutil.which(_compiler()) is not None


def _compiler() -> str:
    return os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")


def _compiled(forward: Callable[..., Any]) -> Callable[..., Any]:
    compiled = torch.compile(forward)

    def run(*arguments: Any, **named: Any) -> Any:
        return (compiled if torch.is_grad_enabled() else forward)(*arguments, **named)

    return run
