"""A recipe's data stages run one after another in this process; prints the digest of each as JSON.

Run as a script under an environment of its own: `python data_line.py RECIPE FOLDER WORKERS FIRST_AND_LAST [--set ...]`.
"""

import importlib
import json
import sys
from pathlib import Path

from modelmill.flows.recipe import load_recipe
from modelmill.tasks.files import file_digest, value_digest
from modelmill.tasks.journal import Journal
from modelmill.tasks.stage import EVIDENCE, Artifact, Pool, StageContext
from tests.tasks.ingest.web import LocalPool


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
    sys.stdout.write(json.dumps(run_line(name, Path(target), LocalPool(int(workers)), end, rest)))
