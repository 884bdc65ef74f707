"""A request from a terminal → the line's flow run in this process, with a Prefect API to report to.

Light to import: the Prefect server of this process starts before Prefect, MLflow and the flows are imported.
"""

import logging
import time
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from modelmill.flows.environment import mill_home
from modelmill.flows.observers import Observer
from modelmill.flows.plan import plan_line
from modelmill.flows.recipe import Line, Node, load_compute
from modelmill.flows.requests import LineRequest
from modelmill.flows.runner import Session
from modelmill.services.compute import Compute
from modelmill.services.lines import read_line
from modelmill.services.prefect_server import prefect_api, wait_until_healthy
from modelmill.services.store import Store
from modelmill.tasks.errors import InputError


@dataclass
class LineOutcome:
    """How a run of the line ended: completed or skipped, wall seconds, and those that were no stage's work."""

    status: str = "skipped"
    seconds: float = 0.0
    seconds_outside: float = 0.0
    links: dict[str, str] = field(default_factory=dict)
    stages: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Handed:
    """What a process that calls a flow itself gives to it beyond the request.

    has_page: whether the flow run's page can be looked at after this process has ended.
    """

    observers: Sequence[Observer] = ()
    line: Line | None = None
    has_page: bool = True


HANDED: ContextVar[Handed] = ContextVar("handed", default=Handed())  # noqa: B039 - frozen


def run_line_flow(request: LineRequest, observers: Sequence[Observer] = (), recipe: Line | None = None) -> LineOutcome:
    """Run the line with the Prefect API of the environment, of `mill up`, or of a server that this call starts.

    `recipe` is the recipe of the request where it was read already.

    Raises:
        MillError: what the failing stage raised.
    """
    started = time.monotonic()
    with prefect_api(mill_home()) as api:
        from prefect.context import refresh_global_settings_context
        from prefect.events.worker import EventsWorker
        from prefect.logging.handlers import APILogWorker

        from modelmill.flows.line import line
        from modelmill.services.tracking import prepare_tracking

        prepare_tracking(mill_home())
        refresh_global_settings_context()  # Prefect may have been imported before its API's address was known
        wait_until_healthy(api)
        quiet_terminal()
        token = HANDED.set(Handed(observers, recipe, has_page=api.has_page))
        try:
            outcome = line(request) or LineOutcome()
        finally:
            HANDED.reset(token)
            # What Prefect still holds must reach the server before that ends.
            APILogWorker.drain_all()
            EventsWorker.drain_all()
    outcome.seconds = time.monotonic() - started
    outcome.seconds_outside = outcome.seconds - sum(
        stage["seconds"] for stage in outcome.stages if stage["status"] != "reuse"
    )
    return outcome


def reuse_finished_line(request: LineRequest, recipe: Line, observers: Sequence[Observer]) -> LineOutcome | None:
    """Take every stage that the request asks for from the store; None if one of them has to be built.

    Such a run does nothing, so it leaves no run in Prefect and MLflow: their start would take ten times as long.
    """
    started = time.monotonic()
    if request.force:
        return None
    nodes = selected(recipe, request)
    plans = {entry.id: entry for entry in plan_line(recipe, Store(mill_home()))}
    wanted = recipe.nodes[: recipe.nodes.index(nodes[-1]) + 1]
    if any(plans[node.id].status != "reuse" for node in wanted):
        return None
    compute = Compute(load_compute(request.compute or recipe.compute), mill_home())
    session = Session(recipe, mill_home(), compute, observers, links=last_links(recipe.name))
    if request.from_stage:
        session.reuse_before(request.from_stage)
    if not all(session.reuse_stage(node.id) for node in nodes):  # something went since the plan was made
        return None
    seconds = time.monotonic() - started
    stages = [entry.as_dict() for entry in session.plans.values()]
    return LineOutcome("completed", seconds, seconds, session.links, stages)


def last_links(name: str) -> dict[str, str]:
    """Where the newest run of a recipe that did something can be looked at."""
    try:
        return read_line(mill_home(), name)["links"]
    except InputError:
        return {}


def selected(recipe: Line, request: LineRequest) -> list[Node]:
    """The stages from `from_stage` to `to_stage`, both included. Raises RecipeError for an unknown one."""
    ids = [node.id for node in recipe.nodes]
    first = ids.index(recipe.node(request.from_stage).id) if request.from_stage else 0
    last = ids.index(recipe.node(request.to_stage).id) if request.to_stage else len(ids) - 1
    return list(recipe.nodes[first : last + 1])


def quiet_terminal() -> None:
    """Keep the libraries' logs for their pages: the terminal shows the line's progress and one message for an error."""
    for name in ("prefect", "prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).setLevel(logging.INFO)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_is_not_of_prefect)
    # It prints the traceback of an error that it raises as well.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def _is_not_of_prefect(record: logging.LogRecord) -> bool:
    return not record.name.startswith("prefect.")
