"""`mill gc` and `mill verify` as a user types them, in this process."""

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelmill.flows.cli import main
from modelmill.flows.housekeeping import duration_seconds
from modelmill.flows.recipe import load_recipe
from modelmill.flows.runner import Session
from modelmill.services.compute import Compute, ComputeConfig
from modelmill.services.store import Store
from modelmill.tasks.clean import stage as clean_stage
from modelmill.tasks.errors import RecipeError
from tests.flows.tiny import Tiny
from tests.services.toy import build, save_run, view

Mill = Callable[..., str]


@pytest.fixture
def mill(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Mill:
    """`mill ARGUMENTS` → what it prints where it ends with this code; for another than 0, what it complains of."""

    def run(*arguments: str, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["mill", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        assert ended.value.code == code, printed.err
        return printed.err if code else printed.out

    return run


@pytest.fixture
def store(home: Path) -> Store:
    """A run, and an artifact that nothing needs."""
    store = Store(home)
    save_run(home, "demo", view(build(store, "k1", {"a": "1"})))
    build(store, "k2", {"a": "2"})
    return store


def places(store: Store) -> int:
    return len(list((store.home / "artifacts").iterdir()))


@pytest.mark.parametrize(
    ("text", "seconds"), [("12h", 43200), ("14d", 1209600), ("1.5m", 90), ("2w", 1209600), ("0", 0)]
)
def test_durations(text: str, seconds: float) -> None:
    assert duration_seconds(text) == seconds
    with pytest.raises(RecipeError, match="such as 12h"):
        duration_seconds(f"{text} days")


def test_gc_asks_before_it_removes(store: Store, mill: Mill, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "0.0 MB freed" in mill("gc")  # nothing is older than 14 days, so there is nothing to ask
    for arguments in (("gc", "--keep", "0"), ("gc", "--keep", "0", "--json")):
        refused = mill(*arguments, code=2)
        assert "no terminal to ask; nothing was removed" in " ".join(refused.split())
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    for answer in ("", "n", "yes please"):
        monkeypatch.setattr("builtins.input", lambda answer=answer: answer)
        assert mill("gc", "--keep", "0").splitlines()[-1].endswith("Nothing was removed.")
        assert places(store) == 2
    monkeypatch.setattr("builtins.input", lambda: "y")
    assert "0.0 MB freed" in mill("gc", "--keep", "0")
    assert places(store) == 1


def test_gc_lists_what_goes_and_what_stays_with_the_reason(store: Store, mill: Mill) -> None:
    listed = json.loads(mill("gc", "--keep", "0", "--dry-run", "--json"))
    assert [item["why"] for item in listed["removable"]] == [
        "artifact that no recipe's run, alias or unfinished work needs"
    ]
    assert [item["why"] for item in listed["kept"]] == ["stage clean of the newest run of demo"]
    assert listed["freed"] is None and places(store) == 2
    assert json.loads(mill("gc", "--keep", "0", "--yes", "--json"))["freed"] == listed["removable"][0]["bytes"]
    assert places(store) == 1


def test_verify_names_damage_and_repairs_it(store: Store, mill: Mill) -> None:
    assert "all files of 1 artifact " in mill("verify")
    for build_ in store.builds("clean"):
        (store.artifact_path(build_["digest"]) / "a").write_text("9")
    assert "1 damaged place" in " ".join(mill("verify", code=4).split())
    said = " ".join(mill("verify", "--all", code=4).split())
    assert "2 damaged places" in said and "a differs from its manifest" in said and "--repair" in said
    assert "moved away; the next run builds clean anew" in mill("verify", "--all", "--repair")
    assert json.loads(mill("verify", "--all", "--json"))["damaged"] == []
    assert "no run of recipe nope is recorded" in " ".join(mill("verify", "--recipe", "nope", code=3).split())
    assert "in a run of its own" in " ".join(mill("verify", "--rebuild", "clean", "--repair", code=2).split())
    (store.home / "lines" / "demo.json").write_bytes(b"\xff")
    said = mill("gc", "--keep", "0", "--yes", code=4)
    assert "nothing was removed" in " ".join(said.split()) and "Traceback" not in said


def test_a_database_that_only_a_person_can_restore(store: Store, mill: Mill) -> None:
    (store.home / "mlflow.db").write_bytes(b"\x00\xff" * 4000)
    for arguments in (("verify",), ("verify", "--repair")):
        said = " ".join(mill(*arguments, code=4).split())
        assert "mlflow.db" in said and "only a person can restore" in said and "Traceback" not in said
    said = " ".join(mill("gc", "--keep", "0", "--yes", code=6).split())
    assert "nothing was removed" in said and "move it away" in said and "Traceback" not in said
    assert places(store) == 2


def test_a_record_that_was_moved_away_protects_what_it_named(store: Store, mill: Mill) -> None:
    for path in (store.home / "lines" / "demo.json", store.home / "lines" / "complete" / "demo.json"):
        path.write_bytes(b"\xff")
    assert "moved away" in mill("verify", "--all", "--repair")
    assert "nothing was removed. Run the recipe again" in " ".join(mill("gc", "--keep", "0", "--yes", code=4).split())
    save_run(store.home, "demo", view(store.builds("clean")[-1]))
    assert "freed" in mill("gc", "--keep", "0", "--yes") and places(store) == 1


def finish(tiny: Tiny, home: Path) -> None:
    recipe = load_recipe(str(tiny.recipe))
    session = Session(recipe, home, Compute(ComputeConfig(backend="process"), home))
    for node in recipe.nodes:
        session.run_stage(node.id)


def test_a_stage_is_built_once_more_and_compared(
    home: Path, tiny: Tiny, mill: Mill, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = ("--recipe", str(tiny.recipe))
    assert "clean has no finished artifact to compare with" in mill("verify", "--rebuild", "clean", *recipe, code=3)
    finish(tiny, home)
    before = files(home)
    for stage in ("ingest", "clean"):
        assert f"{stage}: built anew equal to artifact" in mill("verify", "--rebuild", stage, *recipe)
    write = clean_stage.write_shard

    def other_bytes(table: Any, path: Path) -> Any:
        return write(table.slice(1), path)

    monkeypatch.setattr(clean_stage, "write_shard", other_bytes)
    said = " ".join(mill("verify", "--rebuild", "clean", *recipe, code=4).split())
    assert "differs from artifact" in said and "changed: documents/part-00000" in said
    assert "Traceback" not in said
    # Nothing was published, and nothing is left.
    assert files(home) == before


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A recipe of two data stages, and a home in which they are finished."""
    tiny = Tiny(tmp_path_factory.mktemp("finished") / "small")
    tiny.folder.mkdir()
    tiny.write_recipe()
    tiny.write_pages()
    finish(tiny, tiny.folder / "home")
    return tiny


COMMANDS = [
    ("plan",), ("plan", "--resolved"), ("show",), ("show", "clean"), ("show", "--json"), ("why", "clean"), ("report",),
    ("look", "clean", "--text"), ("gc", "--dry-run"), ("verify",), ("verify", "--all", "--json"), ("run", "RECIPE"),
]  # fmt: skip


@pytest.mark.parametrize("damage", [b"\x00\xff\x1b", b'{"name": "small", "stages": [{}], "digest": [], "time": "x"}'])
@pytest.mark.parametrize(
    "record",
    ["keys/ingest/*.json", "lines/*.json", "lines/*/*.json", "latest", "artifacts/*/manifest.json", "checked/*"],
)
def test_no_command_ends_in_a_traceback_over_a_record_that_cannot_be_read(
    finished: Tiny, tmp_path: Path, home: Path, mill: Mill, monkeypatch: pytest.MonkeyPatch, record: str, damage: bytes
) -> None:
    shutil.copytree(finished.folder / "home", home)
    for path in home.glob(record):
        path.write_bytes(damage)
    for command in COMMANDS:
        if command[0] == "run" and record.startswith("keys"):
            continue  # it would build, which takes Prefect and a minute
        arguments = [str(finished.recipe) if word == "RECIPE" else word for word in command]
        monkeypatch.setattr(sys, "argv", ["mill", *arguments])
        with pytest.raises(SystemExit) as ended:  # anything else would be a traceback
            main()
        assert ended.value.code in (0, 3, 4), command
    mill("verify", "--all", "--repair")
    mill("verify", "--all")
    mill("gc", "--dry-run")


def files(home: Path) -> dict[str, float]:
    time.sleep(0.01)
    return {str(path): path.stat().st_mtime for path in home.rglob("*") if path.is_file() and "lock" not in path.name}
