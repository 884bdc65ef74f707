"""Recipe and store → what a person asks about a line: its plan, its stages, why they run, what may be removed."""

import io
import json
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

from modelmill.flows.console import coloured, plan_table, shortened, stage_table
from modelmill.flows.environment import mill_home
from modelmill.flows.plan import PlanEntry, estimate, nearest_build, plan_line
from modelmill.flows.recipe import Line, load_compute, load_line, load_recipe
from modelmill.services.identity import differences, stage_identity
from modelmill.services.lines import STARTED, is_finished, read_line
from modelmill.services.store import Store
from modelmill.tasks.errors import ContractError, InputError, RecipeError
from modelmill.tasks.text.visible import visible


def current_line(recipe: str | None, overrides: list[str]) -> Line:
    """The named recipe, or the one of this home's newest run with the overrides that it had."""
    if recipe is not None:
        return load_recipe(recipe, overrides)
    record = read_line(mill_home())
    return load_line({"name": record["name"]} | record["recipe"], overrides, f"recipe {record['name']}")


def show_plan(
    console: Console, recipe: str | None, overrides: list[str], force: list[str], compute: str | None,
    resolved: bool, as_json: bool, plot: Path | None = None,
) -> None:  # fmt: skip
    """Print a plan, or the resolved recipe; or draw what the training stages do."""
    line = current_line(recipe, overrides)
    if resolved:
        print_yaml(console, line.resolved())
        return
    for stage in force:
        line.node(stage)
    store = Store(mill_home())
    entries = [entry.checked(store) for entry in plan_line(line, store, tuple(force))]
    if plot is not None:
        from modelmill.flows.training_plan import draw_training_plan, training_stretches

        draw_training_plan(line, training_stretches(line, entries, store), plot)
        console.print(str(plot), soft_wrap=True)
        return
    config = load_compute(compute or line.compute)
    seconds, cost, unknown = estimate(entries, config.price_per_hour)
    if as_json:
        totals = {"seconds": seconds, "cost": cost, "without_estimate": unknown}
        print_json(console, {"recipe": line.name, "stages": [entry.as_dict() for entry in entries], "estimate": totals})
        return
    console.print(Text.assemble((line.name, "bold"), f" {line.description}".rstrip()))
    console.print(plan_table(entries))
    console.print(_estimate_sentence(entries, seconds, cost, unknown), highlight=False)


def _estimate_sentence(entries: list[PlanEntry], seconds: float, cost: float, unknown: list[str]) -> str:
    if all(entry.status == "reuse" for entry in entries):
        return "Nothing to do: every stage is reused."
    sentence = f"About {seconds:.0f} s of work, going by what the stages took before"
    if cost:
        sentence += f", at a cost of {cost:.2f}"
    return sentence + (f"; no estimate for {', '.join(unknown)}." if unknown else ".")


def stage_views(recipe: str | None) -> list[dict[str, Any]]:
    """The stages of the newest run with the figures of their manifests, as `mill show --json` prints them.

    A stage that this run has not finished shows its build in an older run.
    """
    return _with_figures(read_line(mill_home(), recipe)["stages"])


def run_views(line: Line, finished: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same of a run that this process made; the newest may be another's by now. `finished`: plans of its stages."""
    known = {stage["id"]: stage for stage in finished}
    waiting = {node.id: {"id": node.id, "stage": node.spec.name, "status": "waiting"} for node in line.nodes}
    return _with_figures([known.get(name, stage) for name, stage in waiting.items()])


def _with_figures(stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    store, views = Store(mill_home()), []
    for stage in stages:
        view = {"key": None, "digest": None, "seconds": None, "why": []} | stage
        manifest = store.find(stage["stage"], stage["key"]) if stage.get("key") and is_finished(stage) else None
        if view["status"] == STARTED:
            view["why"] = ["it works, or its run was stopped"]
        if not is_finished(stage) and (earlier := stage.get("earlier")):
            manifest = store.find(stage["stage"], earlier["key"])
            view |= _earlier_view(view, manifest, earlier["time"]) if manifest else {}
        if manifest:
            view |= {name: manifest[name] for name in ("counts", "metrics", "waivers", "peak_memory_bytes", "inputs")}
            view |= {"path": str(store.artifact_path(manifest["digest"])), "built_because": manifest["why"]}
            view["evidence"] = str(store.evidence_path(manifest))
        views.append(view)
    return views


def _earlier_view(view: dict[str, Any], manifest: dict[str, Any], run_time: float) -> dict[str, Any]:
    since = time.strftime("%F %H:%M", time.localtime(run_time))
    return {
        "status": "earlier" if view["status"] == "waiting" else view["status"],
        "why": [f"of the run of {since}"],
        "key": manifest["key"],
        "digest": manifest["digest"],
        "seconds": manifest["seconds"],
    }


def show_stages(console: Console, stage: str | None, recipe: str | None, as_json: bool) -> None:
    """Print the newest run's stages, or one of them in full."""
    record = read_line(mill_home(), recipe)
    views = stage_views(record["name"])
    if stage is not None:
        views = [_view_of(views, stage, record["name"])]
    if as_json:
        print_json(console, {"recipe": record["name"], "stages": views, "links": record.get("links", {})})
        return
    if stage is None:
        newest = time.strftime("%F %T", time.localtime(record["time"]))
        console.print(Text.assemble((record["name"], "bold"), f", newest run {newest}"))
        console.print(stage_table(views))
        return
    _print_stage(console, views[0])


def _view_of(views: list[dict[str, Any]], stage: str, name: str) -> dict[str, Any]:
    for view in views:
        if view["id"] == stage:
            return view
    raise RecipeError(f"recipe {name} has no stage {stage!r}; it has {', '.join(view['id'] for view in views)}")


def _print_stage(console: Console, view: dict[str, Any]) -> None:
    why = f": {shortened(tuple(view['why']), 9)}"
    console.print(Text.assemble((view["id"], "bold"), " ", coloured(view["status"]), why))
    if view.get("error"):
        console.print(Text(view["error"], "red"))
    manifest = Store(mill_home()).find(view["stage"], view["key"]) if view["key"] else None
    if manifest is None:
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_row("key", manifest["key"])
    table.add_row("artifact", view["path"])
    if view["evidence"] != view["path"]:
        table.add_row("evidence", view["evidence"])
    table.add_row("built because", "; ".join(manifest["why"]))
    table.add_row("seconds", f"{manifest['seconds']:.1f}")
    table.add_row("in", f"{manifest['counts']['in']:,} {manifest['counts']['unit']}")
    table.add_row("out", f"{manifest['counts']['out']:,}")
    for reason, number in sorted(manifest["counts"]["dropped"].items(), key=lambda item: -item[1]):
        table.add_row(f"dropped: {reason}", f"{number:,}")
    for name, value in sorted(manifest["metrics"].items()):
        table.add_row(name, f"{value:,.4g}")
    for waiver in manifest["waivers"]:
        table.add_row(Text("waived", "yellow"), waiver)
    console.print(table)
    if manifest["summary"]:
        console.print(Markdown(manifest["summary"], hyperlinks=False))


def show_why(console: Console, stage: str, recipe: str | None, overrides: list[str], as_json: bool) -> None:
    """Print all reasons for a stage's plan."""
    line, store = current_line(recipe, overrides), Store(mill_home())
    line.node(stage)
    entry = next(entry for entry in plan_line(line, store) if entry.id == stage).checked(store)
    if as_json:
        print_json(console, entry.as_dict())
        return
    console.print(Text.assemble((stage, "bold"), ": ", coloured(entry.status)))
    for reason in entry.why:
        console.print(f"  {reason}", highlight=False, markup=False)


def accept_stage(console: Console, stage: str, reason: str, recipe: str | None, overrides: list[str]) -> None:
    """Record that a stage's changed code is equivalent.

    Raises:
        InputError: the stage was never built, or its inputs are not finished.
        ContractError: something other than code differs; that cannot be declared away.
    """
    line, store = current_line(recipe, overrides), Store(mill_home())
    node = line.node(stage)
    entries = {entry.id: entry for entry in plan_line(line, store)}
    if entries[stage].status == "reuse":
        console.print(f"{stage} is reused already; there is nothing to accept")
        return
    pending = [maker for _, maker in node.inputs if entries[maker].status != "reuse"]
    if pending:
        raise InputError(f"{stage} cannot be accepted before {', '.join(pending)}: run or accept those first")
    identity = stage_identity(
        node.spec, node.config, [(kind, entries[maker].digest or "") for kind, maker in node.inputs]
    )
    nearest = nearest_build(
        identity, [build for build in store.builds(node.spec.name) if store.find(node.spec.name, build["key"])]
    )
    if nearest is None:
        raise InputError(f"{stage} has no earlier build in this home to be equivalent to")
    other = [text for text in differences(identity.as_dict(), nearest["identity"]) if not text.startswith("code ")]
    if other:
        raise ContractError(f"only a change of code can be accepted; {stage} also differs in: {'; '.join(other)}")
    accepted = store.accept(nearest, identity, reason)
    console.print(
        f"{stage}: artifact {accepted['digest'][:12]} is accepted under key {identity.key[:12]}", highlight=False
    )


def print_json(console: Console, value: Any) -> None:
    console.file.write(json.dumps(value, indent=1, default=str) + "\n")


def print_yaml(console: Console, value: dict[str, Any]) -> None:
    from ruamel.yaml import YAML

    text = io.StringIO()
    YAML().dump(value, text)
    # A program that reads this gets the recipe as it is; a terminal is not to be driven by its texts.
    console.file.write(visible(text.getvalue()) if console.is_terminal else text.getvalue())
