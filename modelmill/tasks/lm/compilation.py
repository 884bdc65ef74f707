"""The layers of a model → the same layers, compiled by torch for training steps (`torch.compile`, one graph a kind).

What lies between a layer's products (norms, rotary embedding, activation) becomes a few kernels. Attention by document
and experts stay as they are: their shapes change with the data.
"""

import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from modelmill.tasks.errors import ResourceError
from modelmill.tasks.lm.forwards import replaced_forwards


@contextmanager
def open_compilation(models: Sequence[Any], wanted: bool) -> Iterator[None]:
    """Within it, the layers of these models are compiled, where gradients are computed: what is measured beside has
    other shapes.

    Raises:
        ResourceError: torch has nothing to compile with.
    """
    layers = [layer for model in models for layer in model.model.layers] if wanted else []
    if layers:
        check_compiler()
    experts = [layer.mlp for layer in layers if hasattr(layer.mlp, "experts")]
    with replaced_forwards(experts, torch.compiler.disable), replaced_forwards(layers, _compiled):
        yield


def check_compiler() -> None:
    """Refuse a machine without what torch compiles with, on a CPU as on a GPU.

    Raises:
        ResourceError: there is no C++ compiler, or Python's headers are missing.
    """
    if missing := missing_parts():
        raise ResourceError(
            f"compile: true needs a C++ compiler and Python's headers; found no {' and no '.join(missing)}: install "
            "them (Debian: apt-get install g++ python3-dev), name another compiler in CXX, or set compile: false"
        )


def missing_parts() -> list[str]:
    """What torch would look for in vain."""
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    return [compiler] * (shutil.which(compiler) is None) + [str(header)] * (not header.is_file())


def _compiled(forward: Callable[..., Any]) -> Callable[..., Any]:
    # Symbols for sizes from the start, lest every shape use up one of the few graphs that torch keeps of a function.
    compiled = torch.compile(forward, dynamic=True)

    def run(*arguments: Any, **named: Any) -> Any:
        return (compiled if torch.is_grad_enabled() else forward)(*arguments, **named)

    return run
