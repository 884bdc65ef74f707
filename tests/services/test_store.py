from pathlib import Path
from typing import Any

import pytest

from modelmill.services.store import Store, collect, read_line, require_free_space, save_line, unreferenced
from modelmill.tasks.errors import InputError, ResourceError
from modelmill.tasks.files import atomic_path, remove_path


def build(store: Store, key: str, files: dict[str, str]) -> dict[str, Any]:
    with store.locked_workspace("clean", key) as workspace:
        for name, text in files.items():
            with atomic_path(workspace / "output" / name) as temporary:
                temporary.write_text(text)
        return store.publish(workspace, manifest(key))


def manifest(key: str) -> dict[str, Any]:
    return {"type": "documents", "stage": "clean", "id": "clean", "key": key, "created": 0.0, "identity": {}}


def test_the_same_bytes_are_the_same_artifact(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = build(store, "k1", {"documents/a": "1", "dropped/a": "x"})
    second = build(store, "k2", {"documents/a": "1", "dropped/a": "y"})
    third = build(store, "k3", {"documents/a": "2"})
    assert first["digest"] == second["digest"] != third["digest"]
    # The newer build's evidence is what lies there.
    assert (store.artifact_path(first["digest"]) / "dropped" / "a").read_text() == "y"
    assert store.find("clean", "k1") == first
    assert store.find("clean", "none") is None


def test_a_lost_artifact_is_not_found(tmp_path: Path) -> None:
    store = Store(tmp_path)
    digest = build(store, "k1", {"a": "1"})["digest"]
    remove_path(store.artifact_path(digest))
    assert store.find("clean", "k1") is None


def test_an_output_killed_before_its_last_step_is_published_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)

    def killed(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with store.locked_workspace("clean", "k1") as workspace:
        (workspace / "output" / "a").write_text("1")
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", killed)
            with pytest.raises(KeyboardInterrupt):
                store.publish(workspace, manifest("k1"))
        assert store.find("clean", "k1") is None
        published = store.publish_complete(workspace)
    assert published is not None
    assert store.find("clean", "k1") == published


def test_temporary_files_of_a_killed_writer_are_not_published(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.locked_workspace("clean", "k1") as workspace:
        (workspace / "output" / "a").write_text("1")
        (workspace / "output" / ".b.123.tmp").write_text("half")
        published = store.publish(workspace, manifest("k1"))
    assert [file["path"] for file in published["files"]] == ["a"]
    assert sorted(path.name for path in store.artifact_path(published["digest"]).iterdir()) == ["a", "manifest.json"]


def test_no_output_is_an_error(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.locked_workspace("clean", "k1") as workspace, pytest.raises(InputError, match="wrote no output"):
        store.publish(workspace, manifest("k1"))


def test_verify_finds_changed_and_missing_files(tmp_path: Path) -> None:
    store = Store(tmp_path)
    built = build(store, "k1", {"a": "1", "b": "2"})
    assert store.verify(built) == []
    (store.artifact_path(built["digest"]) / "a").write_text("other")
    (store.artifact_path(built["digest"]) / "b").unlink()
    assert store.verify(built) == ["a", "b"]


def test_gc_keeps_what_the_newest_run_of_a_line_uses(tmp_path: Path) -> None:
    store = Store(tmp_path)
    kept, old = build(store, "k1", {"a": "1"}), build(store, "k2", {"a": "2"})
    (store.workspace("dedup", "f" * 64) / "output").mkdir(parents=True)
    save_line(tmp_path, "tiny", {"name": "tiny", "stages": [{"id": "clean", "key": "k1", "digest": kept["digest"]}]})
    assert [path.name for path, _, _ in unreferenced(tmp_path)] == [old["digest"], "dedup-" + "f" * 16]
    collect(tmp_path)
    assert store.find("clean", "k1") and not store.find("clean", "k2")
    assert unreferenced(tmp_path) == []
    assert read_line(tmp_path)["name"] == "tiny"


def test_gc_keeps_the_earlier_artifacts_that_a_stage_was_compared_with(tmp_path: Path) -> None:
    store = Store(tmp_path)
    earlier = build(store, "k1", {"a": "1"})
    kept = build(store, "k2", {"a": "2"})
    store.point(kept | {"identity": {"external": {"earlier": earlier["digest"]}}})
    save_line(tmp_path, "tiny", {"name": "tiny", "stages": [{"id": "clean", "key": "k2", "digest": kept["digest"]}]})
    assert unreferenced(tmp_path) == []


def test_a_home_without_runs_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="mill run"):
        read_line(tmp_path)


def test_too_little_disk_is_said_before_a_stage_starts(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="MB are free"):
        require_free_space(tmp_path, 10**18)
