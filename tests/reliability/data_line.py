"""A recipe's data stages run one after another in this process; prints the digest of each as JSON.

Run as a script under an environment of its own: `python data_line.py RECIPE FOLDER WORKERS FIRST_AND_LAST [--set ...]`.
"""

import importlib
import json
import multiprocessing
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from modelmill.flows.recipe import load_recipe
from modelmill.tasks.files import file_digest, value_digest
from modelmill.tasks.journal import Journal
from modelmill.tasks.stage import EVIDENCE, Artifact, Call, Pool, StageContext


class Workers:
    """Processes that stay from one stage to the next: to start them takes as long as a stage."""

    layout = None

    def __init__(self, num_workers: int) -> None:
        self.num_workers = num_workers
        self._executor = ProcessPoolExecutor(num_workers, multiprocessing.get_context("spawn"))

    def map(self, function: Callable[..., Any], calls: Sequence[Call], label: str) -> list[Any]:
        futures = [self._executor.submit(function, **call.arguments) for call in calls]
        return [json.loads(json.dumps(future.result())) for future in futures]

    def run(self, function: Callable[..., Any], arguments: dict[str, Any], label: str, layout: Any = None) -> Any:
        return function(**arguments)


def content_digest(folder: Path) -> str:
    """The digest of an output folder as downstream keys see it."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    named = [(path.relative_to(folder), path) for path in files]
    return value_digest([[name.as_posix(), file_digest(path)] for name, path in named if name.parts[0] not in EVIDENCE])


def run_line(recipe: str, folder: Path, pool: Pool, last: str, overrides: list[str]) -> dict[str, str]:
    """Stage → digest of its output, up to the stage `last`."""
    digests: dict[str, str] = {}
    artifacts: dict[str, Artifact] = {}
    for node in load_recipe(recipe, overrides).nodes:
        workspace = folder / node.id
        (workspace / "output").mkdir(parents=True)
        context = StageContext(
            config=node.config,
            inputs={kind: [artifacts[maker]] for kind, maker in node.inputs},
            workspace=workspace,
            output=workspace / "output",
            pool=pool,
            journal=Journal(workspace / "journal.jsonl"),
            sampler=lambda: sys.exit("a data stage needs no model"),
        )
        importlib.import_module(node.spec.entry_module).run(context)
        digests[node.id] = content_digest(workspace / "output")
        artifacts[node.id] = Artifact(node.spec.produces, workspace / "output", digests[node.id], node.id, {})
        if node.id == last:
            break
    return digests


if __name__ == "__main__":
    name, target, workers, end, *rest = sys.argv[1:]
    sys.stdout.write(json.dumps(run_line(name, Path(target), Workers(int(workers)), end, rest)))
