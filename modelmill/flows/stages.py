"""A request → one stage reused or built, as a Prefect flow of its own; all are made by one factory."""

import functools
from typing import Any

from prefect import Flow, flow, task
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import Completed

from modelmill.flows.recipe import load_recipe
from modelmill.flows.requests import StageRequest, chosen_stage, stage_request
from modelmill.flows.session import SKIPPED, current_line, open_line
from modelmill.tasks.catalog import STAGES
from modelmill.tasks.errors import MillError


@functools.cache
def stage_flow(stage: str) -> Flow[Any, Any]:
    """The flow of one kind of stage: its parameter is that stage's request, so that its page has that stage's form."""
    request_model = stage_request(stage)

    def run(request: request_model) -> Any:  # type: ignore[valid-type]
        return run_one_stage(stage, request) if current_line() is None else build_stage(request.stage_id)

    run.__name__ = run.__qualname__ = stage
    run.__doc__ = request_model.__doc__
    return flow(name=stage, persist_result=False)(run)


def run_one_stage(stage: str, request: StageRequest) -> Any:
    """Run one stage as a line of its own, over the finished stages before it."""
    plain = load_recipe(request.recipe, request.overrides)
    stage_id = chosen_stage(stage, [node.id for node in plain.nodes if node.spec.name == stage], request.stage_id)
    line = load_recipe(request.recipe, request.all_overrides(stage_id))
    with open_line(request, line, [stage_id] if request.force else []) as session:
        if session is None:
            return Completed(name="Skipped", message=SKIPPED)
        session.reuse_before(stage_id)
        return build_stage(stage_id)


def build_stage(stage_id: str) -> str:
    """Reuse or build a stage of the open line; an unforeseen error is met again as often as the compute file says."""
    session = current_line()
    assert session is not None
    return build.with_options(name=stage_id, retries=session.compute.config.failures)(stage_id)


def is_unforeseen(_task: Any, _run: TaskRun, state: State) -> bool:
    """An error that a user must act on would only be met again."""
    return not isinstance(state.result(raise_on_failure=False), MillError)


@task(retry_condition_fn=is_unforeseen, retry_delay_seconds=2, persist_result=False)
def build(stage_id: str) -> str:
    """Reuse or build one stage of the open line; returns its artifact's digest."""
    session = current_line()
    assert session is not None
    return session.run_stage(stage_id)["digest"]


def __getattr__(name: str) -> Flow[Any, Any]:
    """Deployments name their flow by an entrypoint: `modelmill.flows.stages.clean`."""
    if name in STAGES:
        return stage_flow(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
