from pathlib import Path

import pytest

from tests.tasks.lm.tiny_tokens import write_tiny_tokens


@pytest.fixture(scope="session")
def tokens_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokens artifact of a small vocabulary."""
    return write_tiny_tokens(tmp_path_factory.mktemp("tokens"))
