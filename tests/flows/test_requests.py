"""The forms of the deployments: schemas that Prefect's page shows, and what comes back from them."""

from typing import Any

import pytest
from prefect.utilities.callables import parameter_schema
from pydantic import ValidationError

from modelmill.flows.line import line
from modelmill.flows.requests import LineRequest, chosen_stage, stage_request
from modelmill.flows.stages import stage_flow
from modelmill.tasks.catalog import STAGES
from modelmill.tasks.errors import RecipeError


def form(flow: Any, model: str) -> dict[str, Any]:
    return parameter_schema(flow).definitions[model]["properties"]


def test_the_form_of_the_line_offers_recipes_with_help_and_defaults() -> None:
    fields = form(line, "LineRequest")
    assert "demo" in fields["recipe"]["anyOf"][0]["enum"]
    assert fields["recipe"]["default"] == "demo"
    assert [name for name, field in fields.items() if not field.get("description")] == []
    assert fields["when_busy"]["enum"] == ["wait", "skip"]


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_a_form_in_which_all_of_its_settings_are_optional(stage: str) -> None:
    schema = parameter_schema(stage_flow(stage))
    request = schema.definitions[f"{stage.capitalize()}Request"]
    assert "settings" in request["properties"]
    groups = [part for name, part in schema.definitions.items() if name.endswith("Settings")]
    assert [group["title"] for group in groups if "required" in group] == []
    # Prefect's page sends the default of what nobody touched, and `false` for a switch: the recipe would not count.
    fields = [field for group in groups for field in group["properties"].values()]
    assert [field for field in fields if "default" in field or field.get("type") == "boolean"] == []
    assert stage_request(stage)().all_overrides(stage) == []


def test_filled_in_settings_become_overrides_of_the_recipe() -> None:
    asked = stage_request("clean").model_validate(
        {"overrides": ["ingest.sources=[]"], "settings": {"languages": ["en", "no"], "gopher": {"min_words": 7}}}
    )
    assert asked.all_overrides("clean-2") == [
        "ingest.sources=[]", "clean-2.gopher.min_words=7", 'clean-2.languages=["en", "no"]'
    ]  # fmt: skip


@pytest.mark.parametrize("wrong", [{"recipee": "demo"}, {"when_busy": "never"}, {"force": "ingest"}])
def test_a_wrong_request_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LineRequest.model_validate(wrong)


def test_limits_of_settings_hold_in_the_form() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        stage_request("dedup").model_validate({"settings": {"rows_per_shard": 0}})


def test_a_choice_of_yes_and_no_is_a_switch() -> None:
    asked = stage_request("dedup").model_validate({"settings": {"exact": "no", "minhash": {"enabled": "yes"}}})
    assert asked.all_overrides("dedup") == ["dedup.exact=false", "dedup.minhash.enabled=true"]


def test_which_stage_is_meant_must_be_clear() -> None:
    assert chosen_stage("anneal", ["anneal"], None) == "anneal"
    assert chosen_stage("anneal", ["anneal-1", "anneal-2"], "anneal-2") == "anneal-2"
    with pytest.raises(RecipeError, match="it has anneal-1, anneal-2"):
        chosen_stage("anneal", ["anneal-1", "anneal-2"], None)
    with pytest.raises(RecipeError, match="it has none"):
        chosen_stage("extend", [], None)
