"""What the tests of the flows share: a tiny recipe, and one running stack for all of them."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelmill.services.stack import start_stack, stop_stack
from tests.flows.tiny import Stack, Tiny


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    """A tiny recipe of this test's own, with its pages."""
    folder = tmp_path / tmp_path.name.replace("_", "-")
    folder.mkdir()
    made = Tiny(folder)
    made.write_recipe()
    made.write_pages()
    return made


@pytest.fixture(scope="session")
def stack(prefect_database: None) -> Iterator[Stack]:
    """Prefect, MLflow, Ray and the deployments on free ports, for all tests that need them; it takes a while."""
    kept = {name: os.environ.pop(name, None) for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "RAY_ADDRESS")}
    with tempfile.TemporaryDirectory(prefix="mill-stack-") as folder:
        home = Path(folder)
        try:
            yield Stack(home, start_stack(home, prefect_port=0, mlflow_port=0, ray_port=0))
        finally:
            stop_stack(home)
            os.environ.update({name: value for name, value in kept.items() if value is not None})
