"""The tiny line, written once."""

from pathlib import Path

import pytest
import torch

from modelmill.tasks.stage import Artifact
from tests.tasks.evaluate.line import tiny_line

# The models are so small that a second thread only waits.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def line(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Artifact]]:
    return tiny_line(tmp_path_factory.mktemp("line"))


@pytest.fixture(scope="session")
def model_folder(line: dict[str, list[Artifact]]) -> Path:
    return line["checkpoint"][1].path / "model"
