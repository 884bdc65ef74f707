"""A line and what the store holds → for every stage: reuse, resume or build, why, and the time and cost to expect."""

from dataclasses import dataclass, field, replace
from typing import Any

from modelmill.flows.recipe import Line, Node
from modelmill.services.identity import Identity, differences, stage_identity
from modelmill.services.store import Store
from modelmill.tasks.errors import ContractError


@dataclass(frozen=True)
class PlanEntry:
    """What will happen to one stage.

    status: reuse | resume | build | follows, or damaged once it was `checked`. `follows` means: an input will be
    rebuilt, so this stage runs unless that rebuild gives the same bytes as before. `seconds` is what the nearest
    earlier build took, None if unknown.
    """

    id: str
    stage: str
    status: str
    why: tuple[str, ...]
    key: str | None = None
    digest: str | None = None
    seconds: float | None = None
    manifest: dict[str, Any] | None = field(default=None, repr=False)

    def checked(self, store: Store) -> "PlanEntry":
        """The same, or `damaged` where files of the artifact changed since it was made: a run would refuse it."""
        try:
            if self.status == "reuse" and self.manifest is not None:
                store.require_whole(self.manifest, self.id, trust_unknown=True)
        except ContractError as error:
            return replace(self, status="damaged", why=(str(error),))
        return self

    def as_dict(self) -> dict[str, Any]:
        """The entry as JSON-ready data, without the manifest."""
        return {
            "id": self.id,
            "stage": self.stage,
            "status": self.status,
            "why": list(self.why),
            "key": self.key,
            "digest": self.digest,
            "seconds": self.seconds,
        }


def plan_line(line: Line, store: Store, force: tuple[str, ...] = ()) -> list[PlanEntry]:
    """Plan every stage of a line in order. Nothing is changed."""
    entries: dict[str, PlanEntry] = {}
    for node in line.nodes:
        entries[node.id] = plan_node(node, entries, store, node.id in force)
    return list(entries.values())


def plan_node(node: Node, before: dict[str, PlanEntry], store: Store, forced: bool = False) -> PlanEntry:
    """Plan one stage, given the plans of the stages before it."""
    pending = [maker for _, maker in node.inputs if before[maker].status != "reuse"]
    if pending and not forced:
        builds = store.builds(node.spec.name)
        why = (f"runs if the rebuilt output of {', '.join(dict.fromkeys(pending))} differs",)
        if not builds:
            why = (f"never built; waits for {', '.join(dict.fromkeys(pending))}",)
        return PlanEntry(node.id, node.spec.name, "follows", why, seconds=_seconds(builds))
    inputs = [(kind, before[maker].digest or "") for kind, maker in node.inputs]
    return plan_identity(node, stage_identity(node.spec, node.config, inputs), store, forced)


def plan_identity(node: Node, identity: Identity, store: Store, forced: bool = False) -> PlanEntry:
    """Plan a stage whose inputs are all known."""
    key = identity.key
    found = store.find(node.spec.name, key)
    if found and not forced:
        why = ["key and artifact are unchanged"]
        if "accepted" in found:
            why = [f"accepted as equivalent: {found['accepted']['why']}"]
        return PlanEntry(node.id, node.spec.name, "reuse", tuple(why), key, found["digest"], found["seconds"], found)
    builds = store.builds(node.spec.name)
    if (store.workspace(node.spec.name, key) / "identity.json").exists():
        return PlanEntry(
            node.id,
            node.spec.name,
            "resume",
            ("an earlier run of this key did not finish",),
            key,
            None,
            _seconds(builds),
        )
    why = ("forced",) if forced else why_build(identity, builds, store)
    return PlanEntry(node.id, node.spec.name, "build", tuple(why), key, None, _seconds(builds))


def why_build(identity: Identity, builds: list[dict[str, Any]], store: Store) -> list[str]:
    """Exactly what differs from the nearest earlier build."""
    nearest = nearest_build(identity, builds)
    if nearest is None:
        return ["never built in this home"]
    found = differences(identity.as_dict(), nearest["identity"])
    if not found:
        return [f"its artifact {nearest['digest'][:8]} is gone from the store"]
    return found


def nearest_build(identity: Identity, builds: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The build with the fewest differences; of equals the newest."""
    if not builds:
        return None
    new = identity.as_dict()
    return min(builds, key=lambda manifest: len(differences(new, manifest["identity"])))


def estimate(entries: list[PlanEntry], price_per_hour: float) -> tuple[float, float, list[str]]:
    """(seconds, cost, ids without an estimate) of all that will or may run, from what earlier builds took."""
    running = [entry for entry in entries if entry.status != "reuse"]
    seconds = sum(entry.seconds or 0.0 for entry in running)
    unknown = [entry.id for entry in running if entry.seconds is None]
    return seconds, seconds / 3600 * price_per_hour, unknown


def _seconds(builds: list[dict[str, Any]]) -> float | None:
    return builds[0]["seconds"] if builds else None
