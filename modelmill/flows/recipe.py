"""Recipe and compute files (YAML 1.2) and `--set` overrides → a checked line of stages with frozen configurations."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from modelmill.services.compute import ComputeConfig
from modelmill.services.identity import config_class
from modelmill.tasks.catalog import STAGES, StageSpec
from modelmill.tasks.errors import RecipeError
from modelmill.tasks.lm.dry_run.config import LayoutFile
from modelmill.tasks.names import file_name, stage_name
from modelmill.tasks.placeholders import refuse_literal_secrets
from modelmill.tasks.stage import StageConfig
from modelmill.tasks.yaml_text import YAML_BYTES, parse_yaml

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
_SHOWN = 200  # characters of a value in an error
_HEADER = ("name", "description", "compute", "line")


@dataclass(frozen=True)
class Node:
    """One stage of a line. `inputs` are (artifact type, id of the stage that makes it), in line order."""

    id: str
    spec: StageSpec
    config: StageConfig
    inputs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Line:
    """A recipe, resolved: what is computed, in which order."""

    name: str
    description: str
    compute: str
    nodes: tuple[Node, ...]
    overrides: tuple[str, ...] = ()

    def node(self, stage_id: str) -> Node:
        """The stage with this id.

        Raises:
            RecipeError: the line has no such stage.
        """
        for node in self.nodes:
            if node.id == stage_id:
                return node
        known = [node.id for node in self.nodes]
        raise RecipeError(f"recipe {self.name} has no stage {stage_id!r}{_did_you_mean(stage_id, known)}")

    def resolved(self) -> dict[str, Any]:
        """The recipe as plain data with every default filled in; `load_line` reads it back."""
        header = {"name": self.name, "description": self.description, "compute": self.compute}
        line = [
            node.id if node.id == node.spec.name else {"stage": node.spec.name, "id": node.id} for node in self.nodes
        ]
        return header | {"line": line} | {node.id: node.config.model_dump(mode="json") for node in self.nodes}


def recipe_names() -> list[str]:
    """Names of the recipes in configs/."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def load_recipe(name_or_path: str, overrides: list[str] | tuple[str, ...] = ()) -> Line:
    """Read a recipe by its name in configs/ or by its path, and apply `stage.key=value` overrides.

    Raises:
        RecipeError: no such recipe, not YAML, an unknown stage or key, a value that does not fit, or a line in which a
            stage comes before what it consumes.
    """
    path = _config_path(name_or_path, CONFIGS, "recipe")
    data = read_yaml(path)
    data.setdefault("name", path.stem)
    return load_line(data, overrides, str(path))


def load_line(data: dict[str, Any], overrides: list[str] | tuple[str, ...] = (), origin: str = "recipe") -> Line:
    """Check a recipe given as plain data. Errors as in `load_recipe`."""
    refuse_literal_secrets(data, overrides, origin)
    name = _checked_name(str(data.get("name", "")), file_name, f"{origin}: name")
    if not isinstance(data.get("line"), list) or not data["line"]:
        raise RecipeError(f"{origin}: expected `line:` with a list of stages, found {data.get('line')!r}")
    entries = [_line_entry(entry, origin) for entry in data["line"]]
    ids = [stage_id for stage_id, _ in entries]
    if len(set(ids)) != len(ids):
        raise RecipeError(
            f"{origin}: a stage that occurs twice needs an id of its own: {{stage: anneal, id: anneal-2}}"
        )
    for key in data:
        if key not in _HEADER and key not in ids:
            raise RecipeError(f"{origin}: unknown key {key!r}{_did_you_mean(str(key), [*_HEADER, *ids])}")
    settings = {stage_id: _settings(data.get(stage_id), f"{origin}: stage {stage_id}") for stage_id in ids}
    for override in overrides:
        _apply_override(settings, override)
    nodes = []
    for position, (stage_id, spec) in enumerate(entries):
        config = _checked(config_class(spec.name), settings[stage_id], f"{origin}: stage {stage_id}")
        nodes.append(Node(stage_id, spec, config, _node_inputs(spec, stage_id, entries[:position], origin)))
    return Line(
        name,
        str(data.get("description", "")),
        str(data.get("compute", "laptop")),
        tuple(nodes),
        tuple(overrides),
    )


def load_compute(name_or_path: str) -> ComputeConfig:
    """Read a compute file by its name in configs/compute/ or by its path. Raises RecipeError."""
    path = _config_path(name_or_path, CONFIGS / "compute", "compute file")
    return _checked(ComputeConfig, read_yaml(path), str(path))


def load_layout(name_or_path: str) -> LayoutFile:
    """Read a layout file by its name in configs/layouts/ or by its path. Raises RecipeError."""
    path = _config_path(name_or_path, CONFIGS / "layouts", "layout file")
    return _checked(LayoutFile, read_yaml(path), str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """One YAML 1.2 mapping. Raises RecipeError."""
    if path.stat().st_size > YAML_BYTES:
        raise RecipeError(f"{path} has {path.stat().st_size:,} bytes; a recipe has at most {YAML_BYTES:,}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not readable as YAML: {error}") from error
    data = parse_yaml(text, str(path))
    if not isinstance(data, dict):
        raise RecipeError(f"{path}: expected a mapping, found {type(data).__name__}")
    return data


def _config_path(name_or_path: str, folder: Path, kind: str) -> Path:
    for path in (Path(name_or_path), folder / f"{name_or_path}.yaml"):
        if path.is_file():
            return path
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    raise RecipeError(f"no {kind} {name_or_path!r}: neither a file nor one of {', '.join(known)}")


def _line_entry(entry: Any, origin: str) -> tuple[str, StageSpec]:
    if isinstance(entry, str):
        entry = {"stage": entry}
    if not isinstance(entry, dict) or "stage" not in entry or set(entry) - {"stage", "id"}:
        raise RecipeError(f"{origin}: an entry of `line:` is a stage name or {{stage: NAME, id: ID}}, found {entry!r}")
    if entry["stage"] not in STAGES:
        raise RecipeError(
            f"{origin}: unknown stage {entry['stage']!r}{_did_you_mean(str(entry['stage']), list(STAGES))}"
        )
    stage_id = str(entry.get("id", entry["stage"]))
    return _checked_name(stage_id, stage_name, f"{origin}: id of stage {entry['stage']}"), STAGES[entry["stage"]]


def _checked_name(name: str, check: Callable[[str], str], where: str) -> str:
    try:
        return check(name)
    except ValueError as error:
        raise RecipeError(f"{where}: {error}") from error


def _settings(given: Any, where: str) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise RecipeError(f"{where}: expected settings as `key: value`, found {_shown(given)}")
    return dict(given)


def _node_inputs(
    spec: StageSpec, stage_id: str, before: list[tuple[str, StageSpec]], origin: str
) -> tuple[tuple[str, str], ...]:
    inputs: list[tuple[str, str]] = []
    for types, takes_all in [*(((name,), False) for name in spec.consumes), (spec.consumes_all, True)]:
        found = [(name, maker) for name in types for maker, other in before if other.produces == name]
        if types and not found:
            sources = [name for name, other in STAGES.items() if other.produces in types]
            raise RecipeError(
                f"{origin}: stage {stage_id} needs {' or '.join(types)}, and no stage before it on the line makes that "
                f"({' or '.join(sources)} does)"
            )
        inputs += found if takes_all else found[-1:]
    return tuple(inputs)


def _apply_override(settings: dict[str, dict[str, Any]], override: str) -> None:
    target, equals, text = override.partition("=")
    stage_id, dot, key = target.partition(".")
    if not equals or not dot or not key:
        raise RecipeError(f"--set takes STAGE.KEY=VALUE, found {override!r}")
    if stage_id not in settings:
        raise RecipeError(
            f"--set {override}: the line has no stage {stage_id!r}{_did_you_mean(stage_id, list(settings))}"
        )
    *parents, last = key.split(".")
    place: Any = settings[stage_id]
    for part in parents:
        place = _own_group(place, part, override)
    if not isinstance(place, dict):
        raise RecipeError(f"--set {override}: {key.rpartition('.')[0]} is a list; name an entry of it, then a key")
    place[last] = parse_yaml(text, f"--set {override}")


def _own_group(place: dict[str, Any] | list[Any], part: str, override: str) -> dict[str, Any] | list[Any]:
    """The group of keys or the list at `part` of `place`, as a copy put in its place; an entry of a list goes by its
    `name`."""
    if isinstance(place, list):
        names = [entry.get("name") if isinstance(entry, dict) else None for entry in place]
        if part not in names:
            known = [name for name in names if isinstance(name, str)]
            raise RecipeError(f"--set {override}: the list has no entry named {part!r}{_did_you_mean(part, known)}")
        index = names.index(part)
        place[index] = dict(place[index])
        return place[index]
    found = place.get(part)
    if not isinstance(found, dict | list | None):
        raise RecipeError(f"--set {override}: {part} is {found!r}, not a group of keys")
    copy: dict[str, Any] | list[Any] = list(found) if isinstance(found, list) else dict(found or {})
    place[part] = copy
    return copy


def _checked(model: type[Any], values: dict[str, Any], where: str) -> Any:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise RecipeError("\n".join(_explained(item, model, where) for item in error.errors())) from error


def _explained(item: Any, model: type[Any], where: str) -> str:
    # Of a field that may be one of several types pydantic also names the type, as in `literal['fit']`.
    place = ".".join(str(part) for part in item["loc"] if "[" not in str(part) or item["type"] == "extra_forbidden")
    if item["type"] == "extra_forbidden":
        return (
            f"{where}: unknown key {place!r}{_did_you_mean(str(item['loc'][-1]), _known_keys(model, item['loc'][:-1]))}"
        )
    if item["type"] == "missing":
        return f"{where}: {place} is required and has no default"
    if item["type"] == "value_error":
        return f"{where}: {place}{': ' if place else ''}{item['ctx']['error']}"
    return f"{where}: {place}: {item['msg']}, found {_shown(item['input'])}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _known_keys(model: type[Any], place: tuple[int | str, ...]) -> list[str]:
    """Names of the fields at a place inside a model, as far as plain nesting leads there."""
    for part in place:
        field = model.model_fields.get(str(part))
        if field is None or not hasattr(field.annotation, "model_fields"):
            break
        model = field.annotation  # type: ignore[assignment]
    return list(model.model_fields)


def _did_you_mean(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"
