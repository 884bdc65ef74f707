"""A stage's own code run over its inputs in a workspace, while observers follow its journal."""

import importlib
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelmill.flows.recipe import Node
from modelmill.services.compute import Compute
from modelmill.tasks.contracts import check_inputs
from modelmill.tasks.errors import InputError
from modelmill.tasks.journal import Journal, read_events
from modelmill.tasks.stage import Artifact, StageContext, StageResult

if TYPE_CHECKING:
    from modelmill.flows.runner import Observer


def run_stage_code(
    node: Node, inputs: dict[str, list[Artifact]], workspace: Path, journal: Journal, compute: Compute,
    sampler: Callable[[], Any], scored: Path | None = None,
) -> StageResult:  # fmt: skip
    """Let a stage write `workspace/output` from its inputs.

    Raises:
        ContractError: the inputs do not fit together.
        InputError: nothing is left of them. Whatever the stage raises.
    """
    check_inputs(inputs)
    device = compute.device() if node.spec.on_device else "cpu"
    context = StageContext(
        config=node.config,
        inputs=inputs,
        workspace=workspace,
        output=workspace / "output",
        pool=compute.pool(workspace, journal, device),
        journal=journal,
        sampler=sampler,
        device=device,
        scored=scored,
    )
    result = importlib.import_module(node.spec.entry_module).run(context)
    if result.rows_out == 0:
        reasons = ", ".join(f"{reason} {number}" for reason, number in sorted(result.dropped.items())) or "none"
        raise InputError(
            f"stage {node.id} has nothing left: {result.rows_in} {result.unit} came in, none went out "
            f"(dropped: {reasons}). Loosen its settings, or look at its input with `mill show {node.id}`."
        )
    return result


class Following:
    """Hands new journal lines to the observers while a stage runs."""

    def __init__(self, journal: Journal, stage_id: str, observers: Sequence["Observer"]) -> None:
        self._journal, self._stage_id, self._observers = journal, stage_id, observers
        self._stop = threading.Event()
        self._offset = journal.path.stat().st_size if journal.path.exists() else 0
        self._thread = threading.Thread(target=self._follow, name=f"journal-{stage_id}", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._stop.wait(0.25):
            self._read()
        self._read()

    def _read(self) -> None:
        events, self._offset = read_events(self._journal.path, self._offset)
        for event in events:
            for observer in self._observers:
                observer.stage_event(self._stage_id, event)
