import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import pytest
from pydantic import BaseModel

from modelmill.flows.recipe import CONFIGS, load_compute, load_line, load_recipe, recipe_names
from modelmill.services.identity import config_class, identity_config
from modelmill.tasks.catalog import STAGES
from modelmill.tasks.errors import RecipeError
from modelmill.tasks.files import value_digest


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads_and_its_resolved_form_is_the_same_recipe(name: str) -> None:
    """As MLflow and the home keep it: as JSON, in which 3 and 3.0 differ, and so does the key that is made of it."""
    line = load_recipe(name)
    again = load_line(json.loads(json.dumps(line.resolved(), sort_keys=True)))
    for node, same in zip(line.nodes, again.nodes, strict=True):
        assert value_digest(identity_config(same.config)) == value_digest(identity_config(node.config))
        assert same.inputs == node.inputs


@pytest.mark.parametrize("path", sorted((CONFIGS / "compute").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_compute_file_loads(path: Path) -> None:
    load_compute(path.stem)


def recipe(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return str(path)


def test_an_unknown_key_names_the_one_that_was_meant(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="unknown key 'sourcs'; did you mean 'sources'"):
        load_recipe(recipe(tmp_path, "line: [ingest]\ningest: {sourcs: []}\n"))
    with pytest.raises(RecipeError, match="unknown key 'ingst'; did you mean 'ingest'"):
        load_recipe(recipe(tmp_path, "line: [ingest]\ningst: {}\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("line: [ingest, clen]\n", "unknown stage 'clen'; did you mean 'clean'"),
        ("line: [clean]\n", "needs pages, and no stage before it on the line makes that"),
        ("line: []\n", "expected `line:` with a list of stages"),
        ("- a\n", "expected a mapping"),
        ("line: [ingest\n", "not readable as YAML"),
        ("line: [ingest, ingest]\n", "needs an id of its own"),
    ],
)
def test_a_wrong_recipe_is_one_clear_message(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(recipe(tmp_path, text))


def test_an_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(RecipeError, match="demo"):
        load_recipe("dmo")


def test_a_stage_may_repeat_under_ids_of_its_own_and_takes_the_latest_input() -> None:
    data = load_recipe("demo").resolved()
    data["line"] = ["ingest", "clean", "dedup", "curate", "tokenize", "scaling", "pretrain"]
    data["line"] += [{"stage": "anneal", "id": "anneal-1"}, {"stage": "anneal", "id": "anneal-2"}, "extend"]
    anneal = data.pop("anneal")
    data = {key: value for key, value in data.items() if key not in ("align", "evaluate", "release")}
    line = load_line(data | {"anneal-1": anneal, "anneal-2": anneal})
    assert dict(line.node("anneal-2").inputs)["checkpoint"] == "anneal-1"
    assert dict(line.node("extend").inputs)["checkpoint"] == "anneal-2"


@pytest.mark.parametrize("override", ["clean", "clean=1", "clen.x=1", "clean.nonsense=1"])
def test_an_override_that_fits_nothing_is_refused(override: str) -> None:
    with pytest.raises(RecipeError):
        load_recipe("demo", [override])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("clean.gopher.min_words=-5", "gopher.min_words: Input should be greater than or equal to 0, found -5"),
        ("clean.repetition.max_duplicate_lines=1.5", "less than or equal to 1, found 1.5"),
        ("pretrain.mixture={a: -1}", "mixture.a: Input should be greater than or equal to 0, found -1"),
        ("pretrain.mixture={a: 0}", "mixture: found {'a': 0.0}; expected a weight above 0 for at least one domain"),
        ("pretrain.batch_ramp=[[10, 0]]", "batch_ramp.0.1: Input should be greater than 0, found 0"),
        ("anneal.total_tokens=null", "stage anneal: found total_tokens None and 0 phases; expected one of the two"),
    ],
)
def test_a_senseless_value_is_refused_by_its_name(override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)):
        load_recipe("demo", [override])


def test_every_number_of_a_recipe_has_limits() -> None:
    """In all models of the stages; a mapping's and a list's numbers have theirs too."""

    def is_free(annotation: Any, metadata: Sequence[Any] = ()) -> bool:
        if annotation in (int, float):
            return not metadata
        if get_origin(annotation) is Annotated:
            kind, *own = get_args(annotation)
            return is_free(kind, own)
        return any(is_free(part, metadata) for part in get_args(annotation))

    def free(model: type[BaseModel]) -> Iterator[str]:
        for name, info in model.model_fields.items():
            if is_free(info.annotation, info.metadata):
                yield f"{model.__module__}.{model.__name__}.{name}"
            for part in _models(info.annotation):
                yield from free(part)

    # Its own validator refuses negative weights.
    assert {name for stage in STAGES for name in free(config_class(stage))} == {
        "modelmill.tasks.curate.config.Mixture.weights"
    }


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def test_an_entry_of_a_list_is_set_by_its_name() -> None:
    before = load_recipe("common-crawl")
    line = load_recipe("common-crawl", ["ingest.sources.cc.files=7", "ingest.sources.cc.crawl=CC-MAIN-2024-10"])
    config: Any = line.nodes[0].config
    (source,) = config.sources
    assert (source.files, source.crawl, source.prefix) == (7, "CC-MAIN-2024-10", "https://data.commoncrawl.org/")
    moved = load_recipe("common-crawl", ["ingest.sources.cc.prefix=/mirror/"])
    keys = [value_digest(identity_config(each.nodes[0].config)) for each in (before, moved, line)]
    assert keys[0] == keys[1] != keys[2]
    with pytest.raises(RecipeError, match="no entry named 'c'; did you mean 'cc'"):
        load_recipe("common-crawl", ["ingest.sources.c.files=7"])
    with pytest.raises(RecipeError, match="is a list; name an entry of it"):
        load_recipe("common-crawl", ["ingest.sources.files=7"])
