"""The flows → deployments that Prefect's page can start: the line, each stage, and the nightly crawl; served here.

`python -m modelmill.flows.deployments` serves them until it is told to end; `mill up` starts it.
"""

import os
from typing import Any

from prefect import get_client, serve
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateName,
)
from prefect.deployments.runner import RunnerDeployment
from prefect.schedules import Cron
from prefect.types.entrypoint import EntrypointType

from modelmill.flows.environment import mill_home, prepare_environment
from modelmill.flows.line import line
from modelmill.flows.requests import LineRequest, stage_request
from modelmill.flows.stages import stage_flow
from modelmill.tasks.catalog import STAGES

NIGHTLY = "nightly"
_LOOK_SECONDS = 2.0  # how soon a run starts that somebody asked for
_AT_ONCE = 4  # flow runs that may run side by side; runs of one recipe wait for each other anyway


def deployments(nightly_recipe: str, nightly_cron: str, timezone: str) -> list[RunnerDeployment]:
    """All deployments: `line/line`, `line/nightly`, and `STAGE/STAGE` for each stage."""
    made = [_deployment(line, "line", {"request": LineRequest().model_dump(exclude_none=True)})]
    for stage in STAGES:
        default = stage_request(stage)().model_dump(exclude_none=True, exclude={"settings"})
        made.append(_deployment(stage_flow(stage), stage, {"request": default}))
    crawl = LineRequest(recipe=nightly_recipe, to_stage="curate", force=["ingest"], when_busy="skip")
    schedule = Cron(nightly_cron, timezone=timezone)
    description = (
        "Every night: crawl the recipe's sources again and take what is new up to curate. What did not change is "
        "reused. A run that meets another of the same recipe is skipped."
    )
    parameters = {"request": crawl.model_dump(exclude_none=True)}
    return [*made, _deployment(line, NIGHTLY, parameters, schedule=schedule, description=description)]


def _deployment(flow: Any, name: str, parameters: dict[str, Any], **options: Any) -> RunnerDeployment:
    return flow.to_deployment(
        name,
        parameters=parameters,
        paused=False,  # stopping paused the schedules; serving again resumes them
        entrypoint_type=EntrypointType.MODULE_PATH,
        tags=["modelmill"],
        **options,
    )


def discard_missed_runs() -> None:
    """Delete scheduled runs of the time when nothing was served; those to come are scheduled anew."""
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                state=FlowRunFilterState(name=FlowRunFilterStateName(any_=["Scheduled", "Late"]))
            ),
            deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[NIGHTLY])),
        ):
            client.delete_flow_run(run.id)


def main() -> None:
    """Serve all deployments; the schedule comes from the environment."""
    prepare_environment(mill_home())  # in a container nobody has before
    discard_missed_runs()
    serve(
        *deployments(
            os.environ.get("MILL_NIGHTLY_RECIPE", "demo"),
            os.environ.get("MILL_NIGHTLY_CRON", "30 2 * * *"),
            os.environ.get("MILL_NIGHTLY_TIMEZONE", "UTC"),
        ),
        limit=_AT_ONCE,
        query_seconds=_LOOK_SECONDS,
        print_starting_message=False,
    )


if __name__ == "__main__":
    main()
