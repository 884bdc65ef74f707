"""What keeps a home in order: `mill gc` removes what nothing needs, `mill verify` finds and repairs damage."""

import re
import signal
import sys
from typing import Any

from rich.console import Console

from modelmill.flows.environment import mill_home
from modelmill.flows.inspection import print_json
from modelmill.services.aliases import aliased_releases
from modelmill.services.garbage import Item, Survey, collect, survey
from modelmill.services.lines import complete_file, line_file, line_names, newest_build, read_line
from modelmill.services.records import Run, read_record
from modelmill.services.verification import Finding, Verification
from modelmill.tasks.errors import ContractError, RecipeError

_SECONDS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def duration_seconds(text: str) -> float:
    """`12h`, `14d`, `2w`, `90m` or `0`.

    Raises:
        RecipeError: it is none of these.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([mhdw])", text.strip())
    if text.strip() == "0":
        return 0.0
    if not found:
        raise RecipeError(f"--keep takes a duration such as 12h, 14d, 2w or 0, found {text!r}")
    return float(found[1]) * _SECONDS[found[2]]


def collect_garbage(console: Console, keep: str, dry_run: bool, yes: bool, as_json: bool) -> None:
    """List what nothing needs, ask, and remove it.

    Raises:
        RecipeError: nobody can be asked, and --yes is not given.
    """
    home, seconds = mill_home(), duration_seconds(keep)
    aliased = aliased_releases(home)
    found = survey(home, seconds, aliased)
    if not as_json:
        _print_survey(console, found, keep, dry_run)
    if dry_run or (found.removable and not yes and not _agreed(console, found, as_json)):
        freed = None
    else:
        freed = collect(home, found, seconds, aliased)
    if as_json:
        lists = {"removable": found.removable, "kept": found.kept}
        print_json(console, {name: list(map(_as_dict, items)) for name, items in lists.items()} | {"freed": freed})
    elif freed is not None:
        console.print(f"{freed / 1e6:.1f} MB freed", highlight=False)


def _print_survey(console: Console, found: Survey, keep: str, dry_run: bool) -> None:
    for item in found.removable:
        console.print(
            f"{item.bytes / 1e6:10.1f} MB  {item.path}  ({item.why})", highlight=False, soft_wrap=True, markup=False
        )
    size = sum(item.bytes for item in found.removable) / 1e6
    kept = sum(item.bytes for item in found.kept) / 1e6
    verb = "would be freed" if dry_run else "can be freed"
    console.print(
        f"{size:.1f} MB {verb}; {kept:.1f} MB in {_counted(len(found.kept), 'place')} are needed or younger than "
        f"{keep} (--json lists them)",
        highlight=False,
    )


def _agreed(console: Console, found: Survey, as_json: bool) -> bool:
    what = f"{_counted(len(found.removable), 'place')} ({sum(item.bytes for item in found.removable) / 1e6:.1f} MB)"
    if as_json or not sys.stdin.isatty():
        raise RecipeError(
            f"{what} would be removed and there is no terminal to ask; nothing was removed. "
            "Give --yes to remove them, or --dry-run to list them."
        )
    # MLflow's import leaves a handler under which a read goes on after Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    answer = ""
    try:
        answer = console.input(f"Remove {what}? [y/N] ", markup=False).strip().lower()
    finally:
        if answer != "y":
            console.print("Nothing was removed.", highlight=False)
    return answer == "y"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _as_dict(item: Item) -> dict[str, Any]:
    return {"path": str(item.path), "bytes": item.bytes, "why": item.why}


def verify_home(console: Console, recipe: str | None, everything: bool, repair: bool, as_json: bool) -> None:
    """Compare artifacts with their manifests, and manifests and records with each other.

    Raises:
        ContractError: something is damaged and not to be repaired, or only by a person.
        InputError: no run of the named recipe is recorded.
    """
    home = mill_home()
    checked = Verification(home, None if everything else _digests_of_runs(recipe))
    findings = list(checked.findings())
    if repair:
        for finding in findings:
            if finding.repair is not None:
                finding.repair()
    if as_json:
        counts = {"artifacts": checked.num_artifacts, "bytes": checked.num_bytes, "repaired": repair}
        print_json(console, counts | {"damaged": [finding.as_dict() for finding in findings]})
    else:
        for finding in findings:
            console.print(_sentence(finding, repair), highlight=False, soft_wrap=True)
    left = [finding for finding in findings if finding.repair is None or not repair]
    if left:
        first = f"{_counted(len(left), 'damaged place')} (the first: {_problem(left[0])})"
        if all(finding.repair is None for finding in left):
            raise ContractError(f"{first} that only a person can restore: {left[0].remedy}")
        raise ContractError(
            f"{first}. `mill verify --repair` restores what it can and moves the rest away, so that the next run "
            "builds it anew."
        )
    if not findings and not as_json:
        console.print(
            f"all files of {_counted(checked.num_artifacts, 'artifact')} ({checked.num_bytes / 1e6:.1f} MB) and all "
            f"records are as they were written{_of_others(checked)}",
            highlight=False,
        )


def _of_others(checked: Verification) -> str:
    if not checked.num_unread:
        return ""
    return f"; {_counted(checked.num_unread, 'artifact')} of other runs not read: `mill verify --all` reads all"


def _sentence(finding: Finding, repaired: bool) -> str:
    stage = f"{finding.stage}: " if finding.stage else ""
    return stage + _problem(finding) + (f"; {finding.remedy}" if repaired else "")


def _problem(finding: Finding) -> str:
    named = finding.problem.startswith(str(finding.path))
    return finding.problem if named else f"{finding.path}: {finding.problem}"


def _digests_of_runs(recipe: str | None) -> set[str]:
    """Artifacts of the newest run and of the newest complete run of a recipe, by default the one that ran last.

    Raises:
        InputError: no run of the named recipe is recorded.
    """
    home = mill_home()
    digests: set[str] = set()
    if recipe:
        read_line(home, recipe)
    for name in [recipe] if recipe else line_names(home)[:1]:
        for path in (line_file(home, name), complete_file(home, name)):
            record = read_record(path, Run) or {"stages": [], "time": 0.0}
            builds = [newest_build(stage, record["time"]) for stage in record["stages"]]
            digests |= {build["digest"] for build in builds if build}
    return digests
