"""Stage, configuration, inputs, code and libraries → the key that decides whether a stage runs.

Code counts by its meaning: the syntax trees, without comments, docstrings and layout, of every module under
`modelmill.tasks` that the stage's entry point reaches by imports, and the data files that lie beside them.
"""

import ast
import functools
import hashlib
import importlib
import importlib.metadata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import modelmill
from modelmill.tasks.catalog import STAGES, StageSpec
from modelmill.tasks.files import file_digest, value_digest
from modelmill.tasks.stage import StageConfig

_PACKAGE = "modelmill"
_ROOT = Path(modelmill.__file__).parent
_TASKS = f"{_PACKAGE}.tasks"
_AFTER_SCORES = ("placement", "after_scores")


@dataclass(frozen=True)
class Identity:
    """The parts of a stage's key, kept apart so that two builds can be compared part by part."""

    stage: str
    config: dict[str, Any]
    inputs: list[list[str]]
    code: dict[str, str]
    libraries: dict[str, str]
    external: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """SHA-256 over all parts, hexadecimal."""
        return value_digest(asdict(self))

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def stage_identity(spec: StageSpec, config: StageConfig, inputs: list[tuple[str, str]]) -> Identity:
    """The identity of a stage with this configuration over these (artifact type, digest) inputs."""
    return Identity(
        stage=spec.name,
        config=identity_config(config),
        inputs=[list(item) for item in inputs],
        code=code_digests(spec.entry_module),
        libraries=library_versions(spec.libraries),
        external=external_digests(spec, config),
    )


def config_class(stage: str) -> type[StageConfig]:
    """The configuration model of a stage."""
    return importlib.import_module(STAGES[stage].config_module).Config


def external_digests(spec: StageSpec, config: StageConfig) -> dict[str, str]:
    """Digests of what the stage reads from outside the line, if it reads anything."""
    module = importlib.import_module(spec.config_module)
    return module.external_digests(config) if hasattr(module, "external_digests") else {}


def library_versions(names: tuple[str, ...]) -> dict[str, str]:
    """Installed versions of the libraries that a stage declares as shaping its output.

    A local part (`2.13.0+cpu`) says which build was installed, which is placement, and is left out.
    """
    return {name: importlib.metadata.version(name).split("+")[0] for name in sorted(names)}


def identity_config(model: BaseModel, without: tuple[str, ...] = ("placement",)) -> dict[str, Any]:
    """A configuration as plain data without the fields that carry one of these marks, at any depth."""
    return {
        name: _identity_value(getattr(model, name), without)
        for name, info in type(model).model_fields.items()
        if not (isinstance(info.json_schema_extra, dict) and any(map(info.json_schema_extra.get, without)))
    }


def scores_alike(identity: Identity, config: StageConfig, build: Mapping[str, Any]) -> bool:
    """Whether an earlier build (its manifest) differs from this one in nothing that enters the stage's scores.

    False for a stage that has no field applied to finished scores.
    """
    plain = {name: value for name, value in identity.as_dict().items() if name != "config"}
    if plain != {name: build["identity"].get(name) for name in plain}:
        return False
    scoring = identity_config(config, _AFTER_SCORES)
    earlier = identity_config(type(config).model_validate(build["recipe_part"]), _AFTER_SCORES)
    return scoring == earlier and scoring != identity_config(config)


def _identity_value(value: Any, without: tuple[str, ...]) -> Any:
    if isinstance(value, BaseModel):
        return identity_config(value, without)
    if isinstance(value, dict):
        return {str(key): _identity_value(item, without) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_identity_value(item, without) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def code_digests(entry_module: str) -> dict[str, str]:
    """Digest per module and data file that `entry_module` reaches by imports under `modelmill.tasks`."""
    digests: dict[str, str] = {}
    folders: set[Path] = set()
    waiting = [entry_module]
    while waiting:
        module = waiting.pop()
        path = _module_path(module)
        if module in digests or path is None:
            continue
        tree = _parse(path, path.stat().st_mtime_ns)
        digests[module] = tree.digest
        folders.add(path.parent)
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        waiting.extend(name for name in _imported_modules(tree.imports, package) if name.startswith(_TASKS))
        waiting.append(package)
    for folder in folders - {_ROOT / "tasks"}:
        for file in sorted(folder.rglob("*")):
            if file.is_file() and file.suffix != ".py" and "__pycache__" not in file.parts:
                digests[file.relative_to(_ROOT.parent).as_posix()] = file_digest(file)
    return dict(sorted(digests.items()))


def _module_path(module: str) -> Path | None:
    if not module.startswith(_TASKS):
        return None
    base = _ROOT.parent / Path(*module.split("."))
    if (base / "__init__.py").exists():
        return base / "__init__.py"
    file = base.with_suffix(".py")
    return file if file.exists() else None


@dataclass(frozen=True)
class _Parsed:
    digest: str
    imports: tuple[tuple[int, str | None, tuple[str, ...]], ...]


@functools.cache
def _parse(path: Path, modified: int) -> _Parsed:
    """Digest of a module's meaning, and its import statements. `modified` only keys the cache."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    imports: list[tuple[int, str | None, tuple[str, ...]]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports.extend((0, alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            imports.append((node.level, node.module, tuple(alias.name for alias in node.names)))
    return _Parsed(hashlib.sha256(canonical_code(tree).encode()).hexdigest(), tuple(imports))


def _imported_modules(imports: tuple[tuple[int, str | None, tuple[str, ...]], ...], package: str) -> list[str]:
    modules: list[str] = []
    for level, name, members in imports:
        base = name or ""
        if level:
            parents = package.split(".")[: len(package.split(".")) - level + 1]
            base = ".".join([*parents, *([name] if name else [])])
        modules.append(base)
        # `from package import module` reaches the module; names that are not modules find no file.
        modules.extend(f"{base}.{member}" for member in members)
    return modules


def canonical_code(node: Any) -> str:
    """A syntax tree as text without docstrings, other bare strings, positions and empty fields.

    `ast.dump` is not used because which empty fields it prints differs between Python versions.
    """
    if isinstance(node, ast.AST):
        parts = []
        for name, value in ast.iter_fields(node):
            if name in ("type_comment", "kind") or value is None or value == []:
                continue
            if name == "body" and isinstance(value, list):
                value = [item for item in value if not _is_bare_string(item)]
            parts.append(f"{name}={canonical_code(value)}")
        return f"{type(node).__name__}({','.join(parts)})"
    if isinstance(node, list):
        return f"[{','.join(canonical_code(item) for item in node)}]"
    return repr(node)


def _is_bare_string(node: Any) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def differences(new: dict[str, Any], old: dict[str, Any]) -> list[str]:
    """Sentences that name exactly what differs between two identities (as dictionaries), most telling first."""
    found = _flat_differences("config ", new["config"], old["config"])
    new_inputs, old_inputs = dict(map(tuple, new["inputs"])), dict(map(tuple, old["inputs"]))
    for type_name in sorted(new_inputs.keys() | old_inputs.keys()):
        if new_inputs.get(type_name) != old_inputs.get(type_name):
            found.append(
                f"input {type_name}: {_short(old_inputs.get(type_name))} → {_short(new_inputs.get(type_name))}"
            )
    if new["inputs"] != old["inputs"] and new_inputs == old_inputs:
        found.append("inputs: another number or order of artifacts")
    found += _mapping_differences("code", new["code"], old["code"])
    found += [
        f"library {name}: {old['libraries'].get(name)} → {new['libraries'].get(name)}"
        for name in sorted(new["libraries"].keys() | old["libraries"].keys())
        if new["libraries"].get(name) != old["libraries"].get(name)
    ]
    found += _mapping_differences("outside file", new["external"], old["external"])
    return found


def _mapping_differences(word: str, new: dict[str, str], old: dict[str, str]) -> list[str]:
    changed = [f"{word} {name} changed" for name in sorted(new.keys() & old.keys()) if new[name] != old[name]]
    added = [f"{word} {name} is new" for name in sorted(new.keys() - old.keys())]
    return changed + added + [f"{word} {name} is gone" for name in sorted(old.keys() - new.keys())]


def _flat_differences(prefix: str, new: Any, old: Any) -> list[str]:
    if isinstance(new, dict) and isinstance(old, dict):
        found: list[str] = []
        for name in sorted(new.keys() | old.keys()):
            if new.get(name) != old.get(name):
                joiner = "" if prefix.endswith(" ") else "."
                found += _flat_differences(f"{prefix}{joiner}{name}", new.get(name), old.get(name))
        return found
    if isinstance(new, list) and isinstance(old, list) and len(new) == len(old):
        return [
            text
            for index, pair in enumerate(zip(new, old, strict=True))
            if pair[0] != pair[1]
            for text in _flat_differences(f"{prefix}[{index}]", *pair)
        ]
    return [f"{prefix}: {old!r} → {new!r}"]


def _short(digest: str | None) -> str:
    return digest[:8] if digest else "none"
