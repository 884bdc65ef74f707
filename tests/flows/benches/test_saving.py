"""The bench of training states: every way writes what it says, and times are of one step and one call."""

import io

from rich.console import Console

from modelmill.flows.benches.saving import measure
from modelmill.flows.benches.tables import show_measured
from modelmill.flows.benches.train_case import Case
from tests.tasks.lm.tiny_run import SHAPE


def test_every_way_of_saving_is_measured_beside_ours() -> None:
    found = measure([Case(SHAPE, rows=2, length=32, steps=1)], rounds=2)
    assert [row.tool for row in found] == ["modelmill", "torch, async_save", "torch.save, in line"]
    for row in found:
        times = row.quality
        assert times["pause_of_a_step"] > 0 and times["step_beside"] > 0
        assert abs(times["pause_ms"] / times["step_ms"] - times["pause_of_a_step"]) < 1e-9
    console = Console(width=160, record=True, file=io.StringIO())
    show_measured(console, found, None)
    printed = console.export_text()
    assert "pause of a step" in printed and "rates" not in printed
