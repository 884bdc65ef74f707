"""What the `mill` commands that run something do: recipe, store and services → a run, a server, a page."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from modelmill.flows.environment import mill_home
from modelmill.flows.inspection import current_line, print_json, run_views, stage_views
from modelmill.flows.plan import plan_line
from modelmill.flows.recipe import Line, load_line, load_recipe
from modelmill.services.lines import newest_of_stage, read_line
from modelmill.services.store import Store
from modelmill.services.terminal import PlainConsole
from modelmill.tasks.errors import InputError, RecipeError

if TYPE_CHECKING:
    from modelmill.services.chat_page import Access
    from modelmill.services.engine_proxy import Limits


def run_and_report(
    console: Console,
    recipe: str | None,
    overrides: list[str],
    from_stage: str | None,
    to_stage: str | None,
    force: list[str],
    compute: str | None,
    from_mlflow: str | None = None,
    as_json: bool = False,
) -> None:
    """Run a line under Prefect, with progress in the terminal, and end with what came out and what to do next."""
    # The recipe is checked before the imports that take seconds, so that a mistake is told at once.
    line = _requested_line(recipe, overrides, from_mlflow)
    for stage in [from_stage, to_stage, *force]:
        if stage:
            line.node(stage)
    from modelmill.flows.console import ConsoleObserver
    from modelmill.flows.requests import LineRequest
    from modelmill.flows.start import reuse_finished_line, run_line_flow

    request = LineRequest(
        recipe=recipe or line.name,
        overrides=overrides,
        from_stage=from_stage,
        to_stage=to_stage,
        force=force,
        compute=compute,
    )
    quiet = PlainConsole(stderr=True) if as_json else console
    with ConsoleObserver(quiet) as observer:
        outcome = reuse_finished_line(request, line, [observer]) or run_line_flow(request, [observer], line)
    if as_json:
        print_json(
            console,
            {"stages": run_views(line, outcome.stages), "seconds": outcome.seconds, "links": outcome.links},
        )
        return
    from modelmill.flows.ending import print_ending

    print_ending(console, line, outcome, make_report(line.name, None))


def _requested_line(recipe: str | None, overrides: list[str], from_mlflow: str | None) -> Line:
    if from_mlflow:
        from modelmill.services.tracking import recipe_of

        return load_line(recipe_of(from_mlflow), overrides, f"MLflow run {from_mlflow}")
    if recipe is None:
        raise RecipeError("which recipe? `mill run demo`, a path, or --from-mlflow RUN_ID")
    return load_recipe(recipe, overrides)


def rerun_stage(console: Console, stage: str, recipe: str | None, overrides: list[str], compute: str | None) -> None:
    """Force a finished stage, continue an unfinished one, then run what follows."""
    line = current_line(recipe, overrides)
    entry = next(entry for entry in plan_line(line, Store(mill_home())) if entry.id == line.node(stage).id)
    force = [stage] if entry.status == "reuse" else []
    from modelmill.flows.console import ConsoleObserver
    from modelmill.flows.ending import print_ending
    from modelmill.flows.requests import LineRequest
    from modelmill.flows.start import run_line_flow

    request = LineRequest(
        recipe=recipe or line.name, overrides=overrides, from_stage=stage, force=force, compute=compute
    )
    with ConsoleObserver(console) as observer:
        outcome = run_line_flow(request, [observer], line)
    print_ending(console, line, outcome, make_report(line.name, None))


def apply_alone(
    console: Console, step: str, source: Path, target: Path, recipe: str | None, overrides: list[str],
    workers: int, as_json: bool,
) -> None:  # fmt: skip
    """Run one step on a user's files and print its counts."""
    from modelmill.flows.apply import apply_step, step_config

    config = step_config(step, recipe, overrides, mill_home())
    with console.status(f"{step}: no rows read yet") as status:
        outcome = apply_step(
            step, source, target, config, workers, lambda rows: status.update(f"{step}: {rows:,} rows read")
        )
    if as_json:
        print_json(console, outcome.as_dict())
        return
    console.print(f"in {outcome.rows_in:,}  out {outcome.rows_out:,}", highlight=False)
    for reason, number in sorted(outcome.dropped.items(), key=lambda item: -item[1]):
        console.print(f"  dropped {reason}: {number:,}", highlight=False)
    console.print(f"{outcome.rows_per_second:,.0f} rows/s", highlight=False)


def make_report(recipe: str | None, output: Path | None) -> Path:
    """Write the newest run's report page."""
    from modelmill.flows.report import StageView, write_report

    record = read_line(mill_home(), recipe)
    store = Store(mill_home())
    views = []
    for stage in stage_views(record["name"]):
        manifest = store.find(stage["stage"], stage["key"]) if stage["key"] else None
        if manifest:
            store.require_whole(manifest, stage["id"], trust_unknown=True, evidence=True)
        views.append(
            StageView(
                id=stage["id"],
                stage=stage["stage"],
                status=stage["status"],
                key=stage["key"] or "",
                digest=stage["digest"] or "",
                seconds=stage["seconds"],
                peak_memory_bytes=stage.get("peak_memory_bytes"),
                manifest=manifest or {},
                artifact=store.artifact_path(manifest["digest"]) if manifest else None,
                evidence=store.evidence_path(manifest) if manifest else None,
                why=list(stage["why"]),
            )
        )
    return write_report(views, output or mill_home() / "reports" / f"{record['name']}.html", record)


def release_folder(recipe: str | None) -> Path:
    """The model folder of the newest release that is there: a run of a part of the line hides none.

    Raises:
        InputError: there is none.
        ContractError: its files changed after it was made.
    """
    home = mill_home()
    store = Store(home)
    read_line(home, recipe)
    for build in newest_of_stage(home, "release", recipe):
        if manifest := store.find("release", build["key"]):
            store.require_whole(manifest, build["id"])
            return store.artifact_path(manifest["digest"]) / "model"
    raise InputError("no run has made a release yet: finish one with `mill run RECIPE`, or name a folder with --model")


def start_chat(recipe: str | None, model: Path | None, url: str | None, system: str | None) -> None:
    """Chat in the terminal."""
    from modelmill.services.chat import chat

    if url is None:
        model = model or release_folder(recipe)
    chat(model, url=url, system=system)


def start_server(recipe: str | None, model: Path | None, port: int, access: "Access", limits: "Limits") -> None:
    """Serve until interrupted."""
    from modelmill.services.serving import serve

    serve(model or release_folder(recipe), port, access, limits)


def start_stack(console: Console, ports: tuple[int, int, int], allowed_hosts: list[str], as_json: bool) -> None:
    """Start the servers on their ports (Prefect, MLflow, Ray) and say where they are."""
    from modelmill.services.stack import start_stack as start

    prefect_port, mlflow_port, ray_port = ports
    stack = start(
        mill_home(),
        prefect_port=prefect_port,
        mlflow_port=mlflow_port,
        ray_port=ray_port,
        allowed_hosts=allowed_hosts,
    )
    if as_json:
        print_json(console, stack)
        return
    for name, place in stack.items():
        console.print(f"{name:>12}  {place}", highlight=False, soft_wrap=True)
    if stack["stack"] == "already running" and allowed_hosts:
        console.print("--allow-host has no effect on servers that run; `mill down`, then `mill up` again.")
    if "login" in stack:
        console.print("Prefect's page asks for the login once; MLflow's asks for its two parts, user and password.")


def stop_stack(console: Console) -> None:
    """Stop the servers."""
    from modelmill.services.stack import stop_stack as stop

    for name in stop(mill_home()):
        console.print(f"stopped {name}")
