import contextlib
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from modelmill.services.lines import read_line
from modelmill.services.store import Store
from modelmill.services.verification import Verification
from modelmill.tasks.files import read_json, write_json
from tests.services.toy import build, save_run, view


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two builds with equal content and other evidence, a third, and a run."""
    store = Store(tmp_path)
    build(store, "k1", {"documents/a": "1", "documents/b": "2", "report/p": "x", "dropped/d": "x"})
    second = build(store, "k2", {"documents/a": "1", "documents/b": "2", "report/p": "y", "dropped/d": "y"})
    third = build(store, "k3", {"c": "3"})
    save_run(tmp_path, "demo", view(second), view(third, "third"))
    return store


def verified(store: Store, repair: bool = False) -> list[tuple[str, str]]:
    """(path in the home, problem) of what is damaged."""
    findings = list(Verification(store.home).findings())
    if repair:
        for finding in findings:
            assert finding.repair is not None
            finding.repair()
    return [(finding.path.relative_to(store.home).as_posix(), finding.problem) for finding in findings]


def artifact_of(store: Store, name: str) -> Path:
    return next(path.parent.parent for path in store.home.glob(f"artifacts/*/{name}"))


def test_a_whole_home_gives_no_alarm(store: Store) -> None:
    checked = Verification(store.home)
    assert list(checked.findings()) == []
    assert (checked.num_artifacts, checked.num_bytes) == (2, 7)
    assert list(Verification(store.home, set()).findings()) == []


def test_evidence_that_a_newer_build_replaced_or_somebody_removed_is_no_damage(store: Store) -> None:
    """Before evidence had places of its own, the newest build's replaced the first one's in the artifact."""
    artifact = artifact_of(store, "documents/a")
    newer = read_json(artifact / "manifest.json")
    (second,) = [
        found for found in store.builds("clean") if found["key"] not in (newer["key"],) and len(found["files"]) > 1
    ]
    evidence = store.evidence_path(second)
    for name in ("report/p", "dropped/d"):
        (evidence / name).rename(artifact / name)
    second.pop("evidence")
    write_json(artifact / "manifest.json", second)
    store.point(second)
    for path in sorted(evidence.rglob("*"), reverse=True):
        path.rmdir()
    evidence.rmdir()
    assert verified(store) == []
    (artifact / "dropped" / "d").unlink()
    (artifact / "dropped").rmdir()
    assert verified(store) == []


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda folder: (folder / "documents" / "a").write_text("9"), "documents/a differs from its manifest"),
        (lambda folder: (folder / "documents" / "a").unlink(), "documents/a is missing"),
        (lambda folder: (folder / "documents" / "z").write_text("9"), "documents/z is no file of it"),
    ],
)
def test_damaged_content_is_moved_away_and_built_anew(
    store: Store, damage: Callable[[Path], None], problem: str
) -> None:
    artifact = artifact_of(store, "documents/a")
    damage(artifact)
    assert verified(store) == [(f"artifacts/{artifact.name}", problem)]
    assert verified(store, repair=True) and verified(store) == []
    assert not artifact.exists() and len(list((store.home / "damaged").iterdir())) == 3  # and the keys of two builds
    again = build(store, "k1", {"documents/a": "1", "documents/b": "2"})
    assert store.artifact_path(again["digest"]) == artifact and verified(store) == []


def test_a_damaged_manifest_is_written_anew_from_its_key_and_a_key_from_its_manifest(store: Store) -> None:
    artifact = artifact_of(store, "documents/a")
    before = read_json(artifact / "manifest.json")
    key = store.home / "keys" / "clean" / f"{before['key']}.json"
    for text in ("", "{", '{"digest": "' + "0" * 64 + '"}', None):
        if text is None:
            write_json(artifact / "manifest.json", before | {"type": "other"})
        else:
            (artifact / "manifest.json").write_text(text)
        ((path, problem),) = verified(store, repair=True)
        assert path == f"artifacts/{artifact.name}" and "manifest.json is damaged" in problem
        assert verified(store) == [] and read_json(artifact / "manifest.json") == before
    for change in ({"digest": "1" * 64}, {"identity": before["identity"] | {"config": {}}}, {"files": "none"}):
        write_json(key, before | change)
        ((path, problem),) = verified(store, repair=True)
        assert path == key.relative_to(store.home).as_posix() and "is damaged" in problem
        assert verified(store) == [] and read_json(key) == before


def test_an_artifact_that_is_gone_is_told_and_a_key_that_is_gone_is_written_anew(store: Store) -> None:
    artifact = artifact_of(store, "documents/a")
    own = read_json(artifact / "manifest.json")
    key = store.key_file(own)
    key.unlink()
    assert verified(store, repair=True) == [(key.relative_to(store.home).as_posix(), "it is gone")]
    assert verified(store) == [] and read_json(key) == own
    (third,) = (path.parent for path in store.home.glob("artifacts/*/c"))
    other = store.key_file(read_json(third / "manifest.json"))
    shutil.rmtree(third)
    assert list(Verification(store.home, {artifact.name}).findings()) == []
    ((path, problem),) = verified(store, repair=True)
    assert path == other.relative_to(store.home).as_posix() and problem == f"its artifact {third} is gone"
    assert verified(store) == [] and not other.exists()


def test_a_key_whose_artifact_a_killed_run_was_about_to_publish_is_no_damage(store: Store) -> None:
    (artifact,) = (path.parent for path in store.home.glob("artifacts/*/c"))
    own = read_json(artifact / "manifest.json")
    workspace = store.workspace(own["stage"], own["key"])
    workspace.mkdir(parents=True)
    artifact.rename(workspace / "output")
    assert verified(store) == []


@pytest.mark.parametrize("name", ["mlflow.db", "prefect/prefect.db"])
def test_a_damaged_database_is_told_and_left_to_a_person(store: Store, name: str) -> None:
    path = store.home / name
    path.parent.mkdir(exist_ok=True)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE runs (name TEXT)")
        connection.executemany("INSERT INTO runs VALUES (?)", [("x" * 900,)] * 100)
        connection.commit()
    assert verified(store) == []
    content = bytearray(path.read_bytes())
    for page in range(1, len(content) // 4096):
        content[page * 4096 : page * 4096 + 8] = b"\xff" * 8
    for damaged in (bytes(content), b"\x00\xff" * 4000):
        path.write_bytes(damaged)
        (found,) = Verification(store.home).findings()
        assert found.path == path and found.repair is None and "move it away" in found.remedy


def test_what_runs_by_a_damaged_record_is_told(store: Store) -> None:
    (store.home / "stack").mkdir()
    (store.home / "stack" / "stack.json").write_text('{"services": [')
    (found,) = Verification(store.home).findings()
    assert "is damaged" in found.problem and "mill down" in found.remedy


def test_keys_that_a_killed_gc_left_are_no_damage(store: Store) -> None:
    artifact = artifact_of(store, "documents/a")
    trash = store.home / "trash" / "0123456789abcdef"
    trash.mkdir(parents=True)
    artifact.rename(trash / f"0-{artifact.name}")
    assert verified(store) == []


def test_a_marker_that_names_no_format_is_written_anew(store: Store) -> None:
    (store.home / "home.json").write_text("<html>")
    assert verified(store, repair=True) == [("home.json", "it names no format")]
    assert verified(store) == [] and read_json(store.home / "home.json") == {"format": 1}


def test_records_that_nothing_restores_are_moved_away(store: Store) -> None:
    artifact = artifact_of(store, "documents/a")
    (second,) = [key for key in store.home.glob("keys/clean/*.json") if not _leads_from(artifact, key)][:1]
    workspace = store.workspace("clean", "f" * 64)
    workspace.mkdir(parents=True)
    for path in (second, store.home / "lines" / "demo.json", workspace / "identity.json"):
        path.write_bytes(b"\xff\x00")
    assert len(verified(store, repair=True)) == 3
    assert verified(store) == []
    assert not second.exists() and not workspace.exists()
    assert read_line(store.home)["name"] == "demo"  # of the complete run


def test_damaged_evidence_is_moved_away_alone(store: Store) -> None:
    artifact = artifact_of(store, "documents/a")
    (own,) = store.home.glob("evidence/*")
    (artifact / "report" / "p").write_text("9")
    (own / "report" / "p").write_text("9")
    assert [path for path, _ in verified(store, repair=True)] == [
        f"artifacts/{artifact.name}/report", f"evidence/{own.name}"
    ]  # fmt: skip
    assert verified(store) == []
    assert (artifact / "documents" / "a").exists() and (artifact / "dropped").exists()


def _leads_from(artifact: Path, key: Path) -> bool:
    return read_json(artifact / "manifest.json")["key"] == key.stem or read_json(key)["digest"] != artifact.name
