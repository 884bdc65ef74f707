"""Builds of a toy stage in a real store: a manifest as a run would write it."""

import time
from pathlib import Path
from typing import Any

from modelmill.services.lines import save_line
from modelmill.services.store import Store
from modelmill.tasks.files import atomic_path, value_digest


def identity(stage: str, name: str, inputs: list[str], external: list[str]) -> dict[str, Any]:
    return {
        "stage": stage, "config": {"name": name}, "inputs": [["documents", digest] for digest in inputs], "code": {},
        "libraries": {}, "external": {f"earlier {digest[:8]}": digest for digest in external},
    }  # fmt: skip


def key_of(name: str, inputs: list[str] | None = None, external: list[str] | None = None, stage: str = "clean") -> str:
    return value_digest(identity(stage, name, inputs or [], external or []))


def manifest(
    name: str, inputs: list[str] | None = None, external: list[str] | None = None, stage: str = "clean",
    created: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What publication gets of a build that differs by `name`."""
    return {
        "type": "documents", "stage": stage, "id": stage, "key": key_of(name, inputs, external, stage),
        "identity": identity(stage, name, inputs or [], external or []), "metrics": {}, "waivers": [], "why": ["build"],
        "counts": {"in": 1, "out": 1, "unit": "documents", "dropped": {}}, "summary": "", "recipe_part": {},
        "inputs": [{"type": "documents", "stage": "before", "digest": digest} for digest in inputs or []],
        "seconds": 1.0, "peak_memory_bytes": 1, "created": time.time() if created is None else created, "links": {},
    }  # fmt: skip


def build(store: Store, name: str, files: dict[str, str], **parts: Any) -> dict[str, Any]:
    """Publish files under the key of `name`."""
    made = manifest(name, **parts)
    with store.locked_workspace(made["stage"], made["key"]) as workspace:
        write(workspace / "output", files)
        return store.publish(workspace, made)


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        with atomic_path(folder / name) as temporary:
            temporary.write_text(text)


def view(manifest: dict[str, Any] | None, stage_id: str = "clean", status: str = "build") -> dict[str, Any]:
    """What a run's record says of a stage; of one that was not reached without a manifest."""
    if manifest is None:
        return {"id": stage_id, "stage": stage_id, "status": "waiting"}
    return {"id": stage_id, "stage": manifest["stage"], "status": status, "why": [], "seconds": 1.0} | {
        name: manifest[name] for name in ("key", "digest")
    }


def save_run(home: Path, name: str, *views: dict[str, Any]) -> None:
    """Record a run of recipe `name`."""
    record = {"name": name, "recipe": {}, "stages": list(views), "links": {}, "overrides": [], "time": time.time()}
    save_line(home, name, record)
