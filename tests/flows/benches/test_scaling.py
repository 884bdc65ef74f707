"""`mill bench scaling`: what it says before it measures."""

from pathlib import Path

import pytest
from rich.console import Console

from modelmill.flows.benches.scaling import bench_scaling
from modelmill.tasks.errors import InputError


def test_texts_that_are_not_there_are_refused_before_minutes_of_measuring(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no folder .*texts; expected one of <domain>_<name>\.jsonl"):
        bench_scaling(Console(quiet=True), tmp_path / "texts", tmp_path / "home", 1, None)
