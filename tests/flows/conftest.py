"""What the tests of the flows share: a tiny recipe."""

from pathlib import Path

import pytest

from tests.flows.tiny import Tiny


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    """A tiny recipe of this test's own, with its pages."""
    folder = tmp_path / tmp_path.name.replace("_", "-")
    folder.mkdir()
    made = Tiny(folder)
    made.write_recipe()
    made.write_pages()
    return made
