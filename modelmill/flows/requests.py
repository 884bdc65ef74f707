"""What may be asked of the line and of one stage → pydantic models, which Prefect's page shows as forms with help."""

import functools
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.fields import FieldInfo

from modelmill.flows.recipe import recipe_names
from modelmill.services.identity import config_class
from modelmill.tasks.catalog import STAGES
from modelmill.tasks.errors import RecipeError


def _offer_recipes(schema: dict[str, Any]) -> None:
    """Offer the recipes of configs/ as a choice, and leave room for a path."""
    schema.pop("type", None)
    schema["anyOf"] = [
        {"type": "string", "enum": recipe_names(), "title": "A recipe of configs/"},
        {"type": "string", "title": "The path of a recipe file"},
    ]


def _plain(schema: dict[str, Any]) -> None:
    """Show an optional field as the field itself; left empty it is not sent.

    A switch cannot be left empty (Prefect's page sends `false` for one that nobody touched), so it becomes a choice.
    """
    kinds = [kind for kind in schema.pop("anyOf", []) if kind.get("type") != "null"]
    schema.pop("default", None)
    if kinds == [{"type": "boolean"}]:
        schema |= {"type": "string", "enum": ["yes", "no"]}
    elif len(kinds) == 1:
        schema.update({name: value for name, value in kinds[0].items() if name not in schema})
    elif kinds:
        schema["anyOf"] = kinds


RecipeName = Annotated[str, Field(json_schema_extra=_offer_recipes)]
OptionalText = Annotated[str | None, Field(json_schema_extra=_plain)]


class Request(BaseModel):
    """What every run of the line or of a stage is told."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, frozen=True)

    recipe: RecipeName = "demo"
    """What is computed: the name of a recipe in configs/, or the path of a recipe file."""
    overrides: list[str] = []
    """Settings that differ from the recipe, each as `stage.key=value`, for instance `pretrain.seed=2`. Prefect keeps
    them: write `${NAME}` for a secret."""
    compute: OptionalText = None
    """Where it runs: a compute file's name in configs/compute/, or a path. Empty: the one that the recipe names."""
    when_busy: Literal["wait", "skip"] = "wait"
    """If a run of this recipe is under way in this home: wait for its end, or skip this one. The run says which."""


class LineRequest(Request):
    """A run of the line. What is finished is reused, so a run after a failure goes on where the last one ended."""

    from_stage: OptionalText = None
    """Take all stages before this one as they are; they must be finished. Empty: from the first stage."""
    to_stage: OptionalText = None
    """Stop after this stage. Empty: the whole line."""
    force: list[str] = []
    """Stages to build even if nothing changed, for instance ingest to crawl again."""


class StageRequest(Request):
    """A run of one stage, whose inputs must be finished."""

    stage_id: OptionalText = None
    """Which stage of the line, where the line has several of this kind. Empty: the one there is."""
    force: bool = False
    """Build it even if nothing changed."""

    def all_overrides(self, stage_id: str) -> list[str]:
        """The overrides, with the stage's own settings of the form as `stage.key=value`."""
        settings: BaseModel | None = getattr(self, "settings", None)
        return [*self.overrides, *(_as_overrides(stage_id, settings) if settings else ())]


@functools.cache
def stage_request(stage: str) -> type[StageRequest]:
    """The request of one kind of stage: with its settings, all of them optional, as part of the form."""
    settings = optional_settings(config_class(stage))
    return create_model(
        f"{stage.capitalize()}Request",
        __base__=StageRequest,
        __doc__=f"A run of {stage}: {' and '.join(STAGES[stage].consumes) or 'sources'} → {STAGES[stage].produces}.",
        settings=(
            settings,
            Field(default_factory=settings, description="Settings that differ from the recipe; leave the rest empty."),
        ),
    )


def optional_settings(model: type[BaseModel]) -> type[BaseModel]:
    """The same settings, each of which may be left out; help and limits stay."""
    fields: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            kind = optional_settings(kind)
        limited: Any = Annotated[kind, *info.metadata] if info.metadata else kind  # type: ignore[valid-type]
        described = Field(default=None, description=_help(info), json_schema_extra=_plain)
        fields[name] = (limited | None, described)
    return create_model(f"{model.__name__}Settings", __config__=ConfigDict(extra="forbid", frozen=True), **fields)


def _help(info: FieldInfo) -> str | None:
    """The field's help with its default, which a recipe may have changed."""
    if isinstance(info.default, bool | int | float | str) and info.default != "":
        default = {True: "yes", False: "no"}[info.default] if isinstance(info.default, bool) else info.default
        return f"{info.description or ''} Default: {default}.".strip()
    return info.description


def _as_overrides(prefix: str, settings: BaseModel) -> list[str]:
    """What was filled in, one `prefix.key=value` each; a group of settings changes only what is given of it."""
    plain = settings.model_dump(mode="json")
    overrides = []
    for name in sorted(settings.model_fields_set):
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            overrides += _as_overrides(f"{prefix}.{name}", value)
        elif value is not None:
            overrides.append(f"{prefix}.{name}={json.dumps(plain[name])}")
    return overrides


def chosen_stage(stage: str, ids: list[str], wanted: str | None) -> str:
    """The id of the stage that a request means.

    Raises:
        RecipeError: the line has none of this kind, or several and the request does not say which.
    """
    if wanted in ids:
        return wanted
    if not wanted and len(ids) == 1:
        return ids[0]
    found = f"it has {', '.join(ids)}" if ids else "it has none"
    raise RecipeError(f"the line was asked for one stage of kind {stage} (stage_id: {wanted or 'empty'}), and {found}")
