"""Runs of recipes → records of what the newest one, the newest complete one and each stage's newest build were.

    lines/<name>.json            the newest run of a recipe, also one of a part of it
    lines/complete/<name>.json   the newest run in which every stage of the recipe was finished
    latest                       the name of the recipe that ran last

A stage that the newest run has not finished carries `earlier`, its build in an older run; `former` lists stages that
the recipe has no longer, until the next complete run.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modelmill.services.records import Run, read_record
from modelmill.tasks.errors import InputError, RecipeError
from modelmill.tasks.files import atomic_path, inside, write_json
from modelmill.tasks.names import file_name

STARTED, EARLIER = "started", "earlier"
_UNFINISHED = ("waiting", "failed", STARTED)


def line_file(home: Path, name: str) -> Path:
    """The record of the newest run of a recipe. Raises RecipeError where the name cannot be a recipe's."""
    return inside(home, home / "lines" / f"{_recipe_name(name)}.json")


def complete_file(home: Path, name: str) -> Path:
    """The record of its newest complete run. Raises RecipeError where the name cannot be a recipe's."""
    return inside(home, home / "lines" / "complete" / f"{_recipe_name(name)}.json")


def line_lock(home: Path, name: str) -> Path:
    """Held while a run of the recipe is under way."""
    return inside(home, home / "locks" / f"line-{_recipe_name(name)}.lock")


def _recipe_name(name: str) -> str:
    try:
        return file_name(name)
    except ValueError as error:
        raise RecipeError(f"expected the name of a recipe that was run in this home: {error}") from error


def save_line(home: Path, name: str, record: dict[str, Any]) -> None:
    """Remember the newest run of a recipe, and that it was the newest of all."""
    before = read_record(line_file(home, name), Run)
    if before and is_complete(before) and not complete_file(home, name).exists():
        write_json(complete_file(home, name), before)  # of a home made when there was one record for both
    record = with_earlier(record, before)
    write_json(line_file(home, name), record)
    if is_complete(record):
        write_json(complete_file(home, name), record)
    with atomic_path(home / "latest") as temporary:
        temporary.write_text(name)


def with_earlier(record: dict[str, Any], before: dict[str, Any] | None) -> dict[str, Any]:
    """A run's record with what older runs know of the stages that it has not finished."""
    if before is None or is_complete(record):
        return record
    known = {stage["id"]: build for stage in before["stages"] if (build := newest_build(stage, before["time"]))}
    stages = [
        stage | {"earlier": known[stage["id"]]} if not is_finished(stage) and stage["id"] in known else stage
        for stage in record["stages"]
    ]
    ids = {stage["id"] for stage in stages}
    former = {stage["id"]: stage for stage in before.get("former") or []}
    former |= {stage["id"]: stage for stage in before["stages"] if stage["id"] in known}
    return record | {"stages": stages, "former": [stage for name, stage in former.items() if name not in ids]}


def is_finished(stage: dict[str, Any]) -> bool:
    """Whether a run finished this stage, by reuse or by a build."""
    return bool(stage.get("digest")) and stage["status"] not in _UNFINISHED


def is_complete(record: dict[str, Any]) -> bool:
    """Whether a run finished every stage of its recipe."""
    return bool(record["stages"]) and all(map(is_finished, record["stages"]))


def newest_build(stage: dict[str, Any], run_time: float) -> dict[str, Any] | None:
    """Key, digest and time of a stage's build in the run of this record, or of the one that it carries from before."""
    if not is_finished(stage):
        return stage.get("earlier")
    return {"key": stage["key"], "digest": stage["digest"], "time": run_time}


def read_line(home: Path, name: str | None = None) -> dict[str, Any]:
    """The newest run of the named recipe, or of the one that ran last.

    Raises:
        InputError: nothing was run in this home, or its record cannot be read.
    """
    names = [name] if name else line_names(home)[:1]
    for known in names:
        if record := read_record(line_file(home, known), Run) or read_record(complete_file(home, known), Run):
            return record
        if line_file(home, known).exists():
            raise InputError(
                f"the record of the newest run of {known} cannot be read. Run that recipe again, which reuses what is "
                "finished; or name another recipe."
            )
    what = f"recipe {name}" if name else "any recipe"
    raise InputError(f"no run of {what} is recorded under {home}. Start one with `mill run RECIPE`.")


def newest_of_stage(home: Path, stage: str, name: str | None = None) -> Iterator[dict[str, Any]]:
    """Builds (key, digest, time, id) of a kind of stage, the ones to prefer first.

    Of the named recipe, or of the recipe that ran last and then the others: its newest run's, or the one before it,
    then its newest complete run's.
    """
    for known in [name] if name else line_names(home):
        for path in (line_file(home, known), complete_file(home, known)):
            record = read_record(path, Run) or {"stages": [], "time": 0.0}
            for view in [*record["stages"], *(record.get("former") or [])]:
                if view["stage"] == stage and (build := newest_build(view, record["time"])):
                    yield build | {"id": view["id"]}


def line_names(home: Path) -> list[str]:
    """Recipes with a record, the one that ran last first, then by the time of their runs."""
    try:
        last = (home / "latest").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        last = ""
    paths = [*(home / "lines").glob("[!.]*.json"), *(home / "lines" / "complete").glob("[!.]*.json")]
    newest_first = sorted(filter(_is_of_recipe, paths), key=lambda path: path.stat().st_mtime, reverse=True)
    return sorted(dict.fromkeys(path.stem for path in newest_first), key=lambda known: known != last)


def _is_of_recipe(path: Path) -> bool:
    try:
        return bool(file_name(path.stem))
    except ValueError:
        return False
