"""An lm-eval task of a recipe → what in it would run as a program: named before anything of it is loaded.

A task file may name Python functions (`!function utils.x`), classes, scripts that compute a metric, and formats that
are programs (pickles). Its jinja templates run in a sandbox instead. Tasks of lm-eval's own registry are trusted like
the package, apart from those that execute what a model writes.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from modelmill.tasks.errors import InputError, RecipeError

_FILE_BYTES = 4_000_000
# Tasks of lm-eval's registry that execute a model's answers; lm-eval itself refuses those of them that this list lacks.
_EXECUTING = ("humaneval", "mbpp", "cruxeval", "longproc")
# Formats of `datasets` that unpickle, or that connect to a database.
_UNSAFE_FORMATS = ("pandas", "sql", "iceberg")
ADVICE = "read it, then set `allow_code: true` for this task to let it run with your permissions"


class _Function(str):
    """The name behind `!function`."""


class _Loader(yaml.SafeLoader):
    """YAML without objects; functions stay names."""


_Loader.add_constructor("!function", lambda loader, node: _Function(loader.construct_scalar(node)))  # type: ignore[arg-type]


def code_of_registry_task(name: str) -> str | None:
    """Why a task of lm-eval's registry would run foreign code; None if it would not, as far as its name tells."""
    if name.startswith(_EXECUTING):
        return f"lm-eval's task {name!r} executes programs that the model writes"
    return None


def code_of_task_file(path: Path) -> str | None:
    """What in a task file, or in a file that it includes, would run as a program; None where nothing would.

    Raises:
        InputError: a file is no YAML mapping, or includes itself.
    """
    return _code_of(path.resolve(), ())


def _code_of(path: Path, above: tuple[Path, ...]) -> str | None:
    if not path.is_file():
        return None  # said when the task is loaded
    if path in above:
        raise InputError(f"the lm-eval task {path} includes itself")
    config = _read(path)
    found = _code_in(config, set())
    if found is None and config.get("class") is not None:
        found = f"class {config['class']}"
    if found is not None:
        return f"{path} has {found}, a program"
    for name in _included(config, set()):
        if (found := _code_of((path.parent / name).resolve(), (*above, path))) is not None:
            return found
    return None


def _included(value: Any, seen: set[int]) -> Iterator[str]:
    """The files that a task file names as parts of itself, or of the tasks in its group."""
    if not isinstance(value, dict | list) or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, dict) and value.get("include"):
        named = value["include"]
        yield from (str(name) for name in (named if isinstance(named, list) else [named]))
    for item in value.values() if isinstance(value, dict) else value:
        yield from _included(item, seen)


def _read(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _FILE_BYTES:
        raise InputError(f"the lm-eval task {path} has {path.stat().st_size:,} bytes; expected at most {_FILE_BYTES:,}")
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"the lm-eval task {path} is not readable as YAML: {error}") from error
    if not isinstance(config, dict):
        raise InputError(f"the lm-eval task {path} holds {type(config).__name__}; expected a mapping")
    return config


def _code_in(value: Any, seen: set[int]) -> str | None:
    """The first thing that would run, in nested lists and mappings; what an alias repeats is looked at once."""
    if isinstance(value, _Function):
        return f"!function {value}"
    if not isinstance(value, dict | list) or id(value) in seen:
        return None
    seen.add(id(value))
    if isinstance(value, list):
        return next((found for item in value if (found := _code_in(item, seen))), None)
    for name, item in value.items():
        if (name in ("unsafe_code", "hf_evaluate", "trust_remote_code") and item) or name == "use_prompt":
            return f"{name}: {item}"
        if name == "metric" and not str(item).isidentifier():
            return f"metric: {item}"
        if name == "dataset_path" and (item in _UNSAFE_FORMATS or str(item).endswith(".py")):
            return f"dataset_path: {item}"
        if found := _code_in(item, seen):
            return found
    return None


@contextlib.contextmanager
def without_code() -> Iterator[None]:
    """While tasks of files are loaded and asked: lm-eval imports no function, fetches no metric, and renders templates
    in jinja's sandbox.

    Raises:
        RecipeError: a file names a function after all, in a group for one.
    """
    import evaluate
    import lm_eval.utils
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from lm_eval.tasks import _yaml_loader

    def refuse(name: Any, *_: Any, **__: Any) -> Any:
        raise RecipeError(f"the lm-eval task names {name}, a program; {ADVICE}")

    plain = lm_eval.utils.env
    sandbox = ImmutableSandboxedEnvironment(undefined=plain.undefined, keep_trailing_newline=True)
    sandbox.filters["regex_replace"] = plain.filters["regex_replace"]
    library: Any = evaluate
    loaded, imported = library.load, _yaml_loader._import_func_in_yml
    lm_eval.utils.env, library.load, _yaml_loader._import_func_in_yml = sandbox, refuse, refuse
    try:
        yield
    finally:
        lm_eval.utils.env, library.load, _yaml_loader._import_func_in_yml = plain, loaded, imported
