"""What tests that compile share."""

from typing import Any

import pytest
import torch

from modelmill.tasks.lm.compilation import missing_parts

needs_compiler = pytest.mark.skipif(bool(missing_parts()), reason="no C++ compiler")
quiet = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
"""torch's compiler hides the warnings that it sets off itself, which pytest undoes."""


def only_compiled() -> Any:
    """Within it, torch fails where it would go on with layers that are not compiled: too many graphs of one function.

    What was compiled before is forgotten.
    """
    torch.compiler.reset()
    config: Any = torch._dynamo.config  # pyright: ignore[reportPrivateUsage]
    return config.patch(fail_on_recompile_limit_hit=True)
