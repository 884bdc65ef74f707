"""A finished stage → the same stage built once more in a scratch workspace, and which of its files differ."""

import os
import secrets
from typing import Any

from rich.console import Console

from modelmill.flows.building import run_stage_code
from modelmill.flows.console import ConsoleObserver
from modelmill.flows.environment import mill_home
from modelmill.flows.inspection import current_line, print_json
from modelmill.flows.observers import Following
from modelmill.flows.plan import plan_line
from modelmill.flows.recipe import Line, load_compute
from modelmill.services.compute import Compute
from modelmill.services.integrity import content_of, folder_files
from modelmill.services.locks import locked_file
from modelmill.services.stack import stack_environment
from modelmill.services.store import Store
from modelmill.tasks.errors import ContractError, InputError
from modelmill.tasks.files import remove_path
from modelmill.tasks.journal import Journal


def verify_rebuild(
    console: Console, stage: str, recipe: str | None, overrides: list[str], compute: str | None, as_json: bool
) -> None:
    """Build a finished stage anew from the same inputs and compare; nothing is published.

    Raises:
        InputError: the stage or one of its inputs is not finished.
        ContractError: content files differ.
    """
    line, store = current_line(recipe, overrides), Store(mill_home())
    manifest, inputs = _finished(line, stage, store)
    with ConsoleObserver(Console(stderr=True) if as_json else console) as observer:
        anew = _built_anew(line, stage, inputs, compute, observer)
    before = {file["path"]: file["sha256"] for file in content_of(manifest["files"])}
    differing = {
        "changed": sorted(name for name in before.keys() & anew.keys() if before[name] != anew[name]),
        "missing": sorted(before.keys() - anew.keys()),
        "extra": sorted(anew.keys() - before.keys()),
    }
    equal = not any(differing.values())
    if as_json:
        print_json(console, {"stage": stage, "digest": manifest["digest"], "equal": equal} | differing)
    if not equal:
        words = [f"{word}: {', '.join(names[:5])}" for word, names in differing.items() if names]
        raise ContractError(
            f"{stage} built anew differs from artifact {manifest['digest'][:12]} in content ({'; '.join(words)}). "
            "Something that is not part of its key decides what it makes: the environment, the clock, a source outside."
        )
    if not as_json:
        console.print(
            f"{stage}: built anew equal to artifact {manifest['digest'][:12]} in every content file ({len(anew)})",
            highlight=False,
        )


def _finished(line: Line, stage: str, store: Store) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """The manifest of a stage and its input artifacts, all of them whole."""
    node = line.node(stage)
    entries = {entry.id: entry for entry in plan_line(line, store)}
    inputs: dict[str, list[Any]] = {}
    for kind, maker in node.inputs:
        given = entries[maker].manifest
        if given is not None:
            store.require_whole(given, maker)
            inputs.setdefault(kind, []).append(store.artifact(given, maker))
    manifest = entries[stage].manifest
    if manifest is None:
        why = "; ".join(entries[stage].why)
        raise InputError(
            f"{stage} has no finished artifact to compare with ({entries[stage].status}: {why}). "
            f"Run `mill run {line.name} --to {stage}` first."
        )
    return manifest, inputs


def _built_anew(
    line: Line, stage: str, inputs: dict[str, list[Any]], compute: str | None, observer: ConsoleObserver
) -> dict[str, str]:
    """Path → SHA-256 of the content files that the stage makes now."""
    home, node = mill_home(), line.node(stage)
    for name, value in stack_environment(home).items():
        os.environ.setdefault(name, value)
    workspace = home / "work" / f"rebuild-{secrets.token_hex(8)}"
    services = Compute(load_compute(compute or line.compute), home)
    samplers: list[Any] = []

    def sampler() -> Any:
        if not samplers:
            from modelmill.services.inference import start_sampler

            samplers.append(start_sampler(services))
        return samplers[0]

    with locked_file(workspace.with_name(f"{workspace.name}.lock")):
        try:
            (workspace / "output").mkdir(parents=True)
            journal = Journal(workspace / "journal.jsonl")
            with Following(journal, stage, [observer]):
                run_stage_code(node, inputs, workspace, journal, services, sampler)
            return {file["path"]: file["sha256"] for file in content_of(folder_files(workspace / "output"))}
        finally:
            for opened in samplers:
                opened.close()
            services.stop()
            remove_path(workspace)
