"""The artifacts that go into a release → the manifests of every stage of the line behind them, oldest first."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from modelmill.tasks.files import read_json
from modelmill.tasks.stage import Artifact

MANIFEST = "manifest.json"


def line_manifests(artifacts: Iterable[Artifact]) -> list[dict[str, Any]]:
    """Manifests of the artifacts and of all that they were made from, each once, makers before users.

    An artifact's inputs lie beside it under their digests. One that is gone (collected, or on another machine) ends
    the search on that branch: what is known of it is its digest in its user's manifest.
    """
    ordered: list[dict[str, Any]] = []
    seen: set[str] = set()
    for artifact in artifacts:
        visit(artifact.manifest, artifact.path.parent, ordered, seen)
    return ordered


def visit(manifest: dict[str, Any], store: Path, ordered: list[dict[str, Any]], seen: set[str]) -> None:
    """Append what made this artifact, then the artifact's own manifest."""
    if manifest["digest"] in seen:
        return
    seen.add(manifest["digest"])
    for made_from in manifest.get("inputs", ()):
        path = store / made_from["digest"] / MANIFEST
        if path.is_file():
            visit(read_json(path), store, ordered, seen)
    ordered.append(manifest)
