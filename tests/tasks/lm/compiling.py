"""Marks of tests that compile."""

import pytest

from modelmill.tasks.lm.compilation import missing_parts

needs_compiler = pytest.mark.skipif(bool(missing_parts()), reason="no C++ compiler")
quiet = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
"""torch's compiler hides the warnings that it sets off itself, which pytest undoes."""
