"""A request → the whole line as one Prefect flow over one subflow a stage; `run_line_flow` calls it for `mill run`."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from prefect import flow
from prefect.context import refresh_global_settings_context
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.states import Completed

from modelmill.flows.environment import mill_home
from modelmill.flows.recipe import Line, Node, load_recipe
from modelmill.flows.requests import LineRequest, stage_request
from modelmill.flows.runner import Observer, Session
from modelmill.flows.session import HANDED, SKIPPED, Handed, open_line
from modelmill.flows.stages import stage_flow
from modelmill.services.prefect_server import prefect_api, wait_until_healthy


@dataclass
class LineOutcome:
    """How a run of the line ended: completed or skipped, wall seconds, and those that were no stage's work."""

    status: str = "skipped"
    seconds: float = 0.0
    seconds_outside: float = 0.0
    links: dict[str, str] = field(default_factory=dict)
    stages: list[dict[str, Any]] = field(default_factory=list)


@flow(name="line", persist_result=False)
def line(request: LineRequest = LineRequest()) -> Any:  # noqa: B008 - frozen
    """Run a recipe's stages in order: each is reused where nothing changed, continued or built where it must be."""
    recipe = HANDED.get().line or load_recipe(request.recipe, request.overrides)
    nodes = selected(recipe, request)
    with open_line(request, recipe, request.force) as session:
        if session is None:
            return Completed(name="Skipped", message=SKIPPED)
        if request.from_stage:
            session.reuse_before(request.from_stage)
        for node in nodes:
            run_subflow(session, node, request)
        return LineOutcome("completed", links=session.links, stages=[e.as_dict() for e in session.plans.values()])


def selected(recipe: Line, request: LineRequest) -> list[Node]:
    """The stages from `from_stage` to `to_stage`, both included. Raises RecipeError for an unknown one."""
    ids = [node.id for node in recipe.nodes]
    first = ids.index(recipe.node(request.from_stage).id) if request.from_stage else 0
    last = ids.index(recipe.node(request.to_stage).id) if request.to_stage else len(ids) - 1
    return list(recipe.nodes[first : last + 1])


def run_subflow(session: Session, node: Node, request: LineRequest) -> None:
    """Run one stage as the subflow of its kind."""
    parameters = request.model_dump(include={"recipe", "overrides", "compute"})
    asked = stage_request(node.spec.name)(**parameters, stage_id=node.id, force=node.id in session.force)
    # The line's own heartbeat suffices; a subflow's costs up to a second at its end.
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        stage_flow(node.spec.name).with_options(flow_run_name=node.id)(asked)
    if node.id not in session.plans:
        # Retried, Prefect takes a finished subflow as done; whether its artifact still fits is for the key to say.
        session.run_stage(node.id)


def run_line_flow(request: LineRequest, observers: Sequence[Observer] = (), recipe: Line | None = None) -> LineOutcome:
    """Run the line in this process, with the Prefect API of the environment, of `mill up`, or of this process.

    Raises:
        MillError: what the failing stage raised.
    """
    started = time.monotonic()
    with prefect_api(mill_home()) as api:
        refresh_global_settings_context()  # Prefect read the environment when it was imported
        wait_until_healthy(api.url)
        token = HANDED.set(Handed(observers, recipe, has_page=api.has_page))
        quiet_terminal()
        try:
            outcome = line(request) or LineOutcome()
        finally:
            HANDED.reset(token)
            # What Prefect still holds must reach the server before this process's own server ends.
            APILogWorker.drain_all()
            EventsWorker.drain_all()
    outcome.seconds = time.monotonic() - started
    built = [entry["seconds"] for entry in outcome.stages if entry["status"] != "reuse"]
    outcome.seconds_outside = outcome.seconds - sum(built)
    return outcome


def quiet_terminal() -> None:
    """Keep Prefect's log for its pages: the terminal shows the line's own progress and one message for an error."""
    for name in ("prefect", "prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).setLevel(logging.INFO)
    for handler in logging.getLogger().handlers:
        handler.addFilter(lambda record: not record.name.startswith("prefect."))
