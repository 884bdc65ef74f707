import os
import time
from pathlib import Path
from typing import Any

import pytest

from modelmill.services.garbage import collect, survey
from modelmill.services.store import Store
from modelmill.tasks.errors import ContractError
from modelmill.tasks.files import write_json
from tests.services.toy import build, identity, key_of, save_run, view

DAY = 86400.0


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def old(store: Store) -> None:
    """Let everything in a home be a month old."""
    then = time.time() - 30 * DAY
    for path in [store.home, *store.home.rglob("*")]:
        os.utime(path, (then, then))


def aged(store: Store, name: str, files: dict[str, str], **parts: Any) -> dict[str, Any]:
    return build(store, name, files, created=time.time() - 30 * DAY, **parts)


def gone(store: Store, keep: float = 14 * DAY, aliased: dict[str, str] | None = None) -> set[str]:
    """Names of what may go; then it is removed, and nothing is left to remove."""
    found = survey(store.home, keep, aliased or {})
    freed = collect(store.home, found, keep, aliased or {})
    assert freed == sum(item.bytes for item in found.removable)
    assert survey(store.home, keep, aliased or {}).removable == []
    assert not list((store.home / "trash").glob("*"))
    return {item.path.name for item in found.removable}


def test_only_what_nothing_needs_goes(store: Store) -> None:
    pages, unused = aged(store, "pages", {"a": "1"}), aged(store, "unused", {"a": "2"})
    earlier = aged(store, "earlier", {"a": "3"})
    documents = aged(store, "documents", {"a": "4"}, inputs=[pages["digest"]], external=[earlier["digest"]])
    chat, card = aged(store, "chat", {"a": "5"}, stage="align"), aged(store, "card", {"a": "6"}, stage="evaluate")
    aliased = aged(store, "released", {"a": "7"}, stage="release")
    (store.workspace("dedup", "f" * 64) / "output").mkdir(parents=True)
    save_run(store.home, "demo", view(documents), view(chat, "align"), view(card, "evaluate"))
    other = aged(store, "documents 2", {"a": "8"})
    save_run(store.home, "demo", view(other), view(None, "align"), view(None, "evaluate"))
    old(store)
    assert gone(store, aliased={aliased["digest"]: "current"}) == {unused["digest"], "dedup-" + "f" * 16}
    for kept in (pages, earlier, documents, chat, card, aliased, other):
        assert store.find(kept["stage"], kept["key"]) == kept
    assert store.find("clean", unused["key"]) is None
    assert not (store.home / "keys" / "clean" / f"{unused['key']}.json").exists()
    assert gone(store) == {aliased["digest"]}


def test_a_complete_run_is_kept_whole_though_later_ones_renamed_its_stages(store: Store) -> None:
    chat, card = aged(store, "chat", {"a": "5"}, stage="align"), aged(store, "card", {"a": "6"}, stage="evaluate")
    save_run(store.home, "demo", view(chat, "align"), view(card, "evaluate"))
    save_run(store.home, "demo", view(None, "align") | {"id": "align-2"}, view(None, "other"))
    save_run(store.home, "demo", view(None, "third"))
    old(store)
    assert gone(store) == set()
    (store.home / "lines" / "complete" / "demo.json").unlink()
    assert gone(store) == set()  # the newest build of stages that the recipe has no longer
    new = aged(store, "third", {"a": "1"}, stage="third")
    save_run(store.home, "demo", view(new, "third"))
    assert gone(store, keep=0) == {chat["digest"], card["digest"]}


def test_what_is_young_or_worked_on_or_continued_is_kept(store: Store) -> None:
    given = aged(store, "given", {"a": "1"})
    save_run(store.home, "demo", view(None))
    keys = {name: key_of(name, [given["digest"]]) for name in ("worked on", "to continue", "abandoned")}
    for name, key in keys.items():
        (store.workspace("clean", key) / "output").mkdir(parents=True)
        write_json(store.workspace("clean", key) / "identity.json", identity("clean", name, [given["digest"]], []))
    save_run(store.home, "demo", view(None) | {"status": "started", "key": keys["to continue"]})
    old(store)
    young = build(store, "young", {"a": "2"})
    with store.locked_workspace("clean", keys["worked on"]):
        old_lock = store.home / "work" / f"clean-{keys['worked on'][:16]}.lock"
        assert gone(store) == {f"clean-{keys['abandoned'][:16]}"}
        assert old_lock.exists()
    assert store.find("clean", given["key"]) and store.find("clean", young["key"])
    assert gone(store, keep=0) == {young["digest"], f"clean-{keys['worked on'][:16]}"}
    assert store.find("clean", given["key"])  # needed by what is to be continued


def test_evidence_goes_with_the_last_build_that_has_it(store: Store) -> None:
    first, second = aged(store, "k1", {"a": "1", "report/p": "x"}), aged(store, "k2", {"a": "1", "report/p": "y"})
    save_run(store.home, "demo", view(second))
    old(store)
    assert gone(store) == set()
    other = aged(store, "k3", {"a": "2"})
    save_run(store.home, "demo", view(other))
    old(store)
    assert gone(store) == {first["digest"], second["evidence"]}


def test_nothing_is_removed_that_was_needed_again_since_it_was_listed(store: Store) -> None:
    made, unused = aged(store, "k1", {"a": "1"}), aged(store, "k2", {"a": "2"})
    old(store)
    found = survey(store.home, DAY, {})
    assert len(found.removable) == 2
    save_run(store.home, "twin", view(made))  # it took the artifact over while somebody was asked
    later = aged(store, "k3", {"a": "3"})
    old(store)
    collect(store.home, found, DAY, {})
    assert store.find("clean", made["key"]) and store.find("clean", later["key"])
    assert not store.find("clean", unused["key"])


@pytest.mark.parametrize("record", ["keys/clean/{key}.json", "lines/demo.json", "lines/complete/demo.json"])
def test_nothing_is_removed_where_a_record_cannot_be_read(store: Store, record: str) -> None:
    made, unused = aged(store, "k1", {"a": "1"}), aged(store, "k2", {"a": "2"})
    save_run(store.home, "demo", view(made))
    old(store)
    found = survey(store.home, DAY, {})
    (store.home / record.format(key=made["key"])).write_bytes(b"\x00\xff")
    for attempt in (lambda: survey(store.home, DAY, {}), lambda: collect(store.home, found, DAY, {})):
        with pytest.raises(ContractError, match=r"nothing was removed. `mill verify --repair`"):
            attempt()
    assert store.artifact_path(unused["digest"]).exists()


def test_what_an_interrupted_collection_left_goes_with_the_next(store: Store) -> None:
    (store.home / "trash" / "abc" / "0-x").mkdir(parents=True)
    assert gone(store) == {"abc"}
