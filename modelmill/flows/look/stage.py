"""A stage of a recipe's newest run → where its kept, dropped and incoming rows lie, or what to do to have them."""

import difflib
from dataclasses import dataclass
from typing import Any

from modelmill.flows.environment import mill_home
from modelmill.flows.inspection import stage_views
from modelmill.flows.look.shards import Shards, shards_of
from modelmill.services.lines import read_line
from modelmill.services.store import Store
from modelmill.tasks.errors import InputError, RecipeError

# Stages whose rows are documents → the part of the artifact that holds those they kept.
KEPT = {"ingest": "pages", "clean": "documents", "dedup": "documents", "curate": "documents"}


@dataclass(frozen=True)
class DataStage:
    """A finished data stage.

    dropped: None when the manifest counts dropped rows and the artifact no longer has them. before: what came in; None
    for ingest, and when the artifact it came from is gone.
    """

    recipe: str
    id: str
    stage: str
    manifest: dict[str, Any]
    kept: Shards
    dropped: Shards | None
    before: Shards | None

    @property
    def counts(self) -> dict[str, Any]:
        """Of the manifest: in, out, unit, dropped by reason."""
        return self.manifest["counts"]

    @property
    def reasons(self) -> list[str]:
        """Reasons that dropped a row, the commonest first."""
        dropped = self.counts["dropped"]
        return sorted((name for name in dropped if dropped[name]), key=lambda name: (-dropped[name], name))

    def dropped_rows(self) -> Shards:
        """The dropped rows.

        Raises:
            InputError: they were removed from the artifact.
        """
        if self.dropped is None:
            raise InputError(f"{pruned(self)} Without them only what {self.id} kept can be shown.")
        return self.dropped


def pruned(stage: DataStage) -> str:
    """That the dropped rows are gone, and how to have them again."""
    number = sum(stage.counts["dropped"].values())
    return (
        f"The {number:,} rows that {stage.id} dropped are no longer in its artifact (its part dropped/ was removed); "
        f"`mill rerun {stage.id}` makes them again."
    )


def data_stage(recipe: str | None, stage_id: str) -> DataStage:
    """The finished stage with this id.

    Raises:
        RecipeError: the line has no such stage, or it is none of documents.
        InputError: nothing was run, or the stage is not finished.
    """
    name = read_line(mill_home(), recipe)["name"]
    view = require_data_stage(name, stage_id)
    found = _finished(name, view)
    if found is None:
        failed = f": {view['error']}" if view.get("error") else ""
        command = f"mill run {name} --to {stage_id}"
        raise InputError(
            f"{stage_id} has no finished artifact in the newest run of recipe {name} ({view['status']}{failed}). "
            f"Build it with `{command}` (or give the recipe's path), then look again."
        )
    return found


def require_data_stage(name: str, stage_id: str) -> dict[str, Any]:
    """What the newest run of a recipe says of a data stage. Raises RecipeError as `data_stage` does."""
    views = stage_views(name)
    data = [view["id"] for view in views if view["stage"] in KEPT]
    view = next((view for view in views if view["id"] == stage_id), None)
    if view is None:
        close = difflib.get_close_matches(stage_id, data, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"its data stages are {', '.join(data)}"
        raise RecipeError(f"recipe {name} has no stage {stage_id!r}; {hint}")
    if view["stage"] not in KEPT:
        raise RecipeError(
            f"`mill look` shows the documents of {', '.join(data)}; for {stage_id} take `mill show {stage_id}`"
        )
    return view


def data_stages(recipe: str | None) -> list[DataStage | str]:
    """All data stages of the newest run in line order; of one that is not finished, only the id."""
    name = read_line(mill_home(), recipe)["name"]
    return [_finished(name, view) or view["id"] for view in stage_views(name) if view["stage"] in KEPT]


def _finished(recipe: str, view: dict[str, Any]) -> DataStage | None:
    store = Store(mill_home())
    manifest = store.find(view["stage"], view["key"]) if view.get("key") else None
    if manifest is None:
        return None
    store.require_whole(manifest, view["id"], trust_unknown=True, evidence=True)
    artifact = store.artifact_path(manifest["digest"])
    dropped = shards_of(store.evidence_path(manifest) / "dropped")
    gone = any(manifest["counts"]["dropped"].values()) and not dropped.paths
    return DataStage(
        recipe,
        view["id"],
        view["stage"],
        manifest,
        shards_of(artifact / KEPT[view["stage"]]),
        None if gone else dropped,
        _before(store, manifest),
    )


def _before(store: Store, manifest: dict[str, Any]) -> Shards | None:
    for given in manifest["inputs"]:
        part = store.artifact_path(given["digest"]) / ("pages" if given["type"] == "pages" else "documents")
        if part.is_dir():
            return shards_of(part)
    return None
