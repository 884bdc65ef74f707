"""The name of a step, a recipe and overrides → the settings of that step on its own."""

from pathlib import Path
from typing import Any

from modelmill.flows.recipe import _apply_override, _checked, config_class, load_recipe
from modelmill.tasks.errors import InputError, RecipeError
from modelmill.tasks.stage import StageConfig

# What a step needs of a row, and what it reads where it is there.
REQUIRED = {
    "extract": ("html",),
    "language": ("text",),
    "clean": ("id", "text"),
    "dedup": ("id", "text"),
    "tokenize": ("text",),
}
OPTIONAL = {"extract": ("id", "url"), "clean": ("url",), "dedup": ("url", "date")}
STEPS = tuple(REQUIRED)
# Steps that drop rows and say why.
DROPPING = ("extract", "clean", "dedup")
# The stage whose part of a recipe a step takes.
STAGE_OF = {"extract": "ingest", "clean": "clean", "dedup": "dedup"}


class NoSettings(StageConfig):
    """A step that has nothing to set."""


class TokenizerChoice(StageConfig):
    """Which tokenizer encodes a user's rows."""

    tokenizer: str
    """Folder of a Hugging Face tokenizer."""


def step_settings(step: str, values: dict[str, Any]) -> Any:
    """The settings of a step, checked.

    Raises:
        RecipeError: an unknown key, or a value that does not fit.
        InputError: the tokenizer's folder has no tokenizer.
    """
    settings = _checked(_settings_class(step), values, f"apply {step}")
    if isinstance(settings, TokenizerChoice) and not (Path(settings.tokenizer) / "tokenizer.json").is_file():
        raise InputError(f"no tokenizer.json in {settings.tokenizer}; name the folder of a Hugging Face tokenizer")
    return settings


def step_config(step: str, recipe: str | None, overrides: list[str], home: Path) -> dict[str, Any]:
    """The settings of a step as a recipe (its defaults without one) and overrides `STEP.KEY=VALUE` make them.

    Tokenize takes the newest tokenizer of the line under `home`, unless `tokenize.tokenizer=FOLDER` names one.

    Raises:
        RecipeError: an unknown step, recipe, key or stage.
        InputError: there is no tokenizer.
    """
    if step not in STEPS:
        raise RecipeError(f"unknown step {step!r}; expected one of {', '.join(STEPS)}")
    values = _recipe_part(step, recipe)
    # A step may be named by its own name or by its stage's: extract.limits... is ingest.limits...
    names = {step: values, STAGE_OF.get(step, step): values}
    for override in overrides:
        _apply_override(names, override)
    if step == "tokenize" and "tokenizer" not in values:
        values["tokenizer"] = _newest_tokenizer(recipe)
    return values


def _settings_class(step: str) -> type[StageConfig]:
    if step == "extract":
        from modelmill.tasks.ingest.config import ExtractionConfig

        return ExtractionConfig
    if step == "tokenize":
        return TokenizerChoice
    return config_class(STAGE_OF[step]) if step in STAGE_OF else NoSettings


def _recipe_part(step: str, recipe: str | None) -> dict[str, Any]:
    if recipe is None or step not in STAGE_OF:
        return {}
    nodes = [node for node in load_recipe(recipe).nodes if node.spec.name == STAGE_OF[step]]
    if not nodes:
        raise RecipeError(f"recipe {recipe} has no stage {STAGE_OF[step]}, whose settings {step} takes")
    known = _settings_class(step).model_fields
    return {key: value for key, value in nodes[0].config.model_dump(mode="json").items() if key in known}


def _newest_tokenizer(recipe: str | None) -> str:
    from modelmill.flows.inspection import stage_views

    try:
        views = stage_views(recipe)
    except InputError:
        views = []
    for view in views:
        if view["stage"] == "tokenize" and view.get("path"):
            return str(Path(view["path"]) / "tokenizer")
    raise InputError(
        "no run has made a tokenizer yet: finish `mill run RECIPE --to tokenize`, or name a folder with "
        "--set tokenize.tokenizer=FOLDER"
    )
