"""A request → the whole line as one Prefect flow over one subflow a stage."""

from typing import Any

from prefect import flow
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.states import Completed

from modelmill.flows.recipe import Node, load_recipe
from modelmill.flows.requests import LineRequest, stage_request
from modelmill.flows.runner import Session
from modelmill.flows.session import SKIPPED, open_line
from modelmill.flows.stages import stage_flow
from modelmill.flows.start import HANDED, LineOutcome, selected


@flow(name="line", persist_result=False)
def line(request: LineRequest = LineRequest()) -> Any:  # noqa: B008 - frozen
    """Run a recipe's stages in order: each is reused where nothing changed, continued or built where it must be."""
    recipe = HANDED.get().line or load_recipe(request.recipe, request.overrides)
    nodes = selected(recipe, request)
    with open_line(request, recipe, request.force, [node.id for node in nodes]) as session:
        if session is None:
            return Completed(name="Skipped", message=SKIPPED)
        if request.from_stage:
            session.reuse_before(request.from_stage)
        for node in nodes:
            run_subflow(session, node, request)
        return LineOutcome("completed", links=session.links, stages=[e.as_dict() for e in session.plans.values()])


def run_subflow(session: Session, node: Node, request: LineRequest) -> None:
    """Run one stage as the subflow of its kind."""
    parameters = request.model_dump(include={"recipe", "overrides", "compute"})
    asked = stage_request(node.spec.name)(**parameters, stage_id=node.id, force=node.id in session.force)
    # The line's own heartbeat suffices; a subflow's costs up to a second at its end.
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        stage_flow(node.spec.name).with_options(flow_run_name=node.id)(asked)
    if node.id not in session.plans:
        # In a retried run Prefect takes a finished subflow as done. Whether its artifact still fits is for the key to
        # say; what was forced is not forced again.
        session.force -= {node.id}
        session.run_stage(node.id)
