"""A stage's inputs and workspace → what its own code makes of them."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modelmill.flows.recipe import Node
from modelmill.services.compute import Compute
from modelmill.tasks.contracts import check_inputs
from modelmill.tasks.errors import InputError
from modelmill.tasks.journal import Journal
from modelmill.tasks.stage import Artifact, StageContext, StageResult


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
