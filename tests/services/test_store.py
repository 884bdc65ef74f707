import json
from pathlib import Path
from typing import Any

import pytest

from modelmill.services.lines import newest_of_stage, read_line
from modelmill.services.store import Store, require_free_space
from modelmill.tasks.errors import ContractError, InputError, ResourceError
from modelmill.tasks.files import read_json, remove_path, write_json
from tests.services.toy import build, key_of, manifest, save_run, view, write


def test_the_same_bytes_are_the_same_artifact_and_each_build_keeps_its_evidence(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = build(store, "k1", {"documents/a": "1", "dropped/a": "x"})
    place = store.artifact_path(first["digest"])
    before = place.stat().st_ino, (place / "documents" / "a").stat()
    second = build(store, "k2", {"documents/a": "1", "dropped/a": "y"})
    third = build(store, "k3", {"documents/a": "2"})
    assert first["digest"] == second["digest"] != third["digest"]
    assert (place.stat().st_ino, (place / "documents" / "a").stat()) == before
    for made, text in ((first, "x"), (second, "y")):
        assert (store.evidence_path(made) / "dropped" / "a").read_text() == text
    assert store.find("clean", first["key"]) == first
    assert store.find("clean", second["key"]) == second
    assert store.find("clean", "none") is None


def test_equal_evidence_is_stored_once_and_none_is_not_another_builds(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = build(store, "k1", {"a": "1", "report/p": "x"})
    again = build(store, "k2", {"a": "1", "report/p": "x"})
    assert store.evidence_path(again) == store.evidence_path(first) == store.artifact_path(first["digest"])
    others = [build(store, name, {"a": "1", "report/p": "y"}) for name in ("k3", "k4", "k3")]
    assert {store.evidence_path(other) for other in others} == {tmp_path / "evidence" / others[0]["evidence"]}
    without = build(store, "k5", {"a": "1"})
    assert not (store.evidence_path(without) / "report").exists()
    for made, text in ((first, "x"), (others[0], "y")):
        page = store.evidence_path(made) / "report" / "p"
        page.write_text("damaged")
        store.require_whole(made, "clean")
        with pytest.raises(ContractError, match="report/p of stage clean changed"):
            store.require_whole(made, "clean", evidence=True)
        # Evidence that was pruned is no damage, and comes back with the next build; so does damaged evidence.
        for remove in (False, True):
            if remove:
                remove_path(page.parent)
                store.require_whole(made, "clean", evidence=True)
            build(store, "k6", {"a": "1", "report/p": text})
            assert page.read_text() == text
            store.require_whole(made, "clean", evidence=True)


def test_a_home_made_before_evidence_had_places_is_read_as_it_is(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = build(store, "k1", {"a": "1", "dropped/a": "x"})
    old = {name: value for name, value in made.items() if name != "evidence"}
    old["files"] = [{name: value for name, value in file.items() if name != "xxh3"} for file in made["files"]]
    write_json(tmp_path / "keys" / "clean" / f"{made['key']}.json", old)
    remove_path(tmp_path / "checked")
    found = store.find("clean", made["key"])
    assert found is not None and found == old
    assert (store.evidence_path(found) / "dropped" / "a").read_text() == "x"
    store.require_whole(found, "clean")
    (store.artifact_path(made["digest"]) / "a").write_text("2")
    with pytest.raises(ContractError):
        store.require_whole(found, "clean")


def test_a_lost_artifact_is_not_found(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = build(store, "k1", {"a": "1"})
    remove_path(store.artifact_path(made["digest"]))
    assert store.find("clean", made["key"]) is None


def test_an_output_killed_at_any_step_of_its_publication_is_published_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before each rename in turn; once with a new artifact, once over equal content with other evidence."""

    class Killed(BaseException):
        pass

    rename, replace = Path.rename, Path.replace
    for renames in range(8):
        for earlier in (False, True):
            store = Store(tmp_path / f"{renames}-{earlier}")
            if earlier:
                build(store, "k0", {"a": "1", "report/p": "old", "dropped/q": "old"})
            made = manifest("k1")
            with store.locked_workspace("clean", made["key"]) as workspace:
                write(workspace / "output", {"a": "1", "report/p": "new", "dropped/q": "new"})
                left = [renames]

                def counted(left: list[int] = left) -> None:
                    left[0] -= 1
                    if left[0] < 0:
                        raise Killed

                with monkeypatch.context() as patch:
                    patch.setattr(Path, "rename", lambda *paths: (counted(), rename(*paths))[1])
                    patch.setattr(Path, "replace", lambda *paths: (counted(), replace(*paths))[1])
                    try:
                        store.publish(workspace, made)
                    except Killed:
                        found = store.find("clean", made["key"])
                        assert found is None or (store.evidence_path(found) / "report" / "p").read_text() == "new"
            with store.locked_workspace("clean", made["key"]) as workspace:
                published = store.publish_complete(workspace) or store.find("clean", made["key"])
                if published is None:  # killed before its manifest was written: the stage is continued
                    published = store.publish(workspace, made)
            assert published == store.find("clean", made["key"])
            evidence = store.evidence_path(published)
            assert [(evidence / name).read_text() for name in ("report/p", "dropped/q")] == ["new", "new"]


def test_temporary_files_of_a_killed_writer_are_not_published(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.locked_workspace("clean", key_of("k1")) as workspace:
        (workspace / "output" / "a").write_text("1")
        (workspace / "output" / ".b.123.tmp").write_text("half")
        published = store.publish(workspace, manifest("k1"))
    assert [file["path"] for file in published["files"]] == ["a"]
    assert sorted(path.name for path in store.artifact_path(published["digest"]).iterdir()) == ["a", "manifest.json"]
    assert list((tmp_path / "work").iterdir()) == []


def test_no_output_is_an_error(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.locked_workspace("clean", "k1") as workspace, pytest.raises(InputError, match="wrote no output"):
        store.publish(workspace, manifest("k1"))


def test_a_changed_file_is_found_once_and_a_rebuild_replaces_it_in_place(tmp_path: Path) -> None:
    store = Store(tmp_path)
    files = {"a": "1", "b": "2", "c": "3"}
    made = build(store, "k1", files)
    place = store.artifact_path(made["digest"])
    store.require_whole(made, "clean")
    (place / "a").write_text("4")
    (place / "b").unlink()
    assert store.damage(made) == ["a", "b"]
    with pytest.raises(ContractError, match=r"a and 1 more files of stage clean changed.*`mill rerun clean`"):
        store.require_whole(made, "clean")
    kept = (place / "c").stat().st_ino
    build(store, "k1", files)
    assert {name: (place / name).read_text() for name in files} == files
    assert (place / "c").stat().st_ino == kept
    store.require_whole(made, "clean")


def test_files_are_read_only_when_they_are_not_known_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, read = Store(tmp_path), []
    made = build(store, "k1", {"a": "1", "b": "2"})
    place, opened = store.artifact_path(made["digest"]), Path.open

    def counted(path: Path, *mode: Any, **options: Any) -> Any:
        if path.parent == place:
            read.append(path.name)
        return opened(path, *mode, **options)

    monkeypatch.setattr(Path, "open", counted)
    assert store.damage(made) == []
    assert read == []  # publication has just digested them
    (place / "a").touch()
    assert [store.damage(made), store.damage(made)] == [[], []]
    assert read == ["a"]
    remove_path(tmp_path / "checked")
    assert store.damage(made, trust_unknown=True) == []
    assert read == ["a"]
    assert store.damage(made) == []
    assert sorted(read) == ["a", "a", "b"]


def test_the_newest_run_and_the_newest_release_are_two_things(tmp_path: Path) -> None:
    store = Store(tmp_path)
    documents, release = build(store, "k1", {"a": "1"}), build(store, "k2", {"b": "1"}, stage="release")
    save_run(tmp_path, "demo", view(documents), view(release, "release"))
    later = build(store, "k3", {"a": "2"})
    save_run(tmp_path, "demo", view(later), view(None, "release"))
    save_run(tmp_path, "nightly", view(later))
    assert [stage["status"] for stage in read_line(tmp_path, "demo")["stages"]] == ["build", "waiting"]
    assert read_line(tmp_path)["name"] == "nightly"
    for name in ("demo", None):
        assert next(newest_of_stage(tmp_path, "release", name))["key"] == release["key"]
    # The stage is renamed, and a run stops before it: its former build is still known.
    save_run(tmp_path, "demo", view(later), view(None, "publish") | {"stage": "release"})
    assert next(newest_of_stage(tmp_path, "release", "demo"))["key"] == release["key"]
    assert read_json(tmp_path / "lines" / "complete" / "demo.json")["stages"][0]["key"] == documents["key"]


def test_a_record_of_a_home_with_one_record_a_recipe_is_its_newest_complete_run(tmp_path: Path) -> None:
    store = Store(tmp_path)
    release = build(store, "k2", {"b": "1"}, stage="release")
    save_run(tmp_path, "demo", view(release, "release"))
    remove_path(tmp_path / "lines" / "complete")
    save_run(tmp_path, "demo", view(None, "release"))
    assert read_json(tmp_path / "lines" / "complete" / "demo.json")["stages"][0]["key"] == release["key"]


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"\xff\x00\x80", b"[]", b"null", b'{"digest": 3}', b'{"key": "../../x"}']
)
def test_an_unreadable_record_counts_as_absent_and_is_said_once(
    tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path)
    made, other = build(store, "k1", {"a": "1"}), build(store, "k2", {"a": "2"})
    save_run(tmp_path, "demo", view(made))
    (tmp_path / "keys" / "clean" / f"{made['key']}.json").write_bytes(damage)
    (tmp_path / "lines" / "demo.json").write_bytes(damage)
    (tmp_path / "checked" / f"{other['digest']}.json").write_bytes(damage)
    assert [store.find("clean", made["key"]), store.find("clean", made["key"])] == [None, None]
    assert [found["key"] for found in store.builds("clean")] == [other["key"]]
    assert store.damage(other) == []
    assert read_line(tmp_path)["stages"][0]["key"] == made["key"]  # of the newest complete run
    (tmp_path / "lines" / "complete" / "demo.json").write_bytes(damage)
    save_run(tmp_path, "other", view(other))
    (tmp_path / "latest").write_text("demo")
    with pytest.raises(InputError, match="the newest run of demo cannot be read"):  # and not what another recipe made
        read_line(tmp_path)
    assert read_line(tmp_path, "other")["stages"][0]["key"] == other["key"]
    lines = [line.getMessage() for line in caplog.records if str(made["key"]) in line.getMessage()]
    assert len(lines) == 1 and "counts as absent" in lines[0] and "\n" not in lines[0]
    # Anything else where the manifest of a complete output would be is not taken for one.
    with store.locked_workspace("clean", "k9") as workspace:
        (workspace / "output" / "manifest.json").write_bytes(damage)
        assert store.publish_complete(workspace) is None


def test_a_home_without_runs_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="mill run"):
        read_line(tmp_path)
    (tmp_path / "latest").write_bytes(b"\xff")
    with pytest.raises(InputError, match="mill run"):
        read_line(tmp_path)


def test_too_little_disk_is_said_before_a_stage_starts(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="MB are free"):
        require_free_space(tmp_path, 10**18)


def test_manifests_record_both_digests_of_every_file(tmp_path: Path) -> None:
    made = build(Store(tmp_path), "k1", {"a": "1"})
    assert made["files"] == [
        {
            "path": "a",
            "bytes": 1,
            "sha256": "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b",
            "xxh3": made["files"][0]["xxh3"],
        }
    ]
    assert len(made["files"][0]["xxh3"]) == 32
    assert json.dumps(made)
