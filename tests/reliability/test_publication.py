"""Processes that publish equal content again and again while others read it: no read fails, no evidence is mixed up."""

import random
import time
from collections import Counter
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from modelmill.flows.recipe import Line, Node
from modelmill.flows.runner import Session
from modelmill.services.compute import Compute, ComputeConfig
from modelmill.services.garbage import collect, survey
from modelmill.services.store import Store
from modelmill.services.verification import Verification
from tests.flows.forked import context
from tests.reliability.toy_stage import Config, ToySpec
from tests.services.toy import build

CONTENT = {f"documents/{number}": "x" * 1000 for number in range(5)}


def publish(home: Path, writer: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        name = f"{writer}-{time.monotonic_ns() % 5}"
        build(Store(home), name, CONTENT | {"report/build": name, "dropped/row": str(writer % 2)})


def read(home: Path, digest: str, ended: Event, results: Any) -> None:
    """Read all files of the artifact, and the evidence of its builds, as fast as it goes."""
    store, counted = Store(home), Counter[str]()
    while not ended.is_set():
        for path in [
            *(store.artifact_path(digest) / name for name in CONTENT),
            store.artifact_path(digest) / "manifest.json",
        ]:
            try:
                path.read_bytes()
                counted["read"] += 1
            except OSError:
                counted["failed"] += 1
        for made in store.builds("clean"):
            text = (store.evidence_path(made) / "report" / "build").read_text()
            counted["read" if made["identity"]["config"]["name"] == text else "mixed"] += 1
        counted["lost"] += not store.builds("clean") or not all(
            store.find("clean", one["key"]) for one in store.builds("clean")
        )
    results.put(dict(counted))


def run_lines(home: Path, recipe: str, seconds: float, failures: Any) -> None:
    """Run versions of a line that others run too, so that each takes over what another has made."""
    deadline, draw = time.monotonic() + seconds, random.Random(recipe)
    while time.monotonic() < deadline:
        version = draw.randrange(12)
        nodes = [Node("ingest", ToySpec("ingest", "pages"), Config(stage="ingest", version=version), ())]
        config = Config(stage="clean", version=draw.randrange(2))
        nodes.append(Node("clean", ToySpec("clean", "documents"), config, (("pages", "ingest"),)))
        session = Session(
            Line(recipe, "", "process", tuple(nodes)), home, Compute(ComputeConfig(backend="process"), home)
        )
        for node in nodes:
            manifest = session.run_stage(node.id)
            if session.store.find(node.spec.name, manifest["key"]) is None or session.store.damage(manifest):
                failures.put(f"{recipe} {node.id}")


def collect_always(home: Path, ended: Event, removed: Any) -> None:
    number = 0
    while not ended.is_set():
        found = survey(home, 0, {})
        time.sleep(0.01)  # somebody is asked
        collect(home, found, 0, {})
        number += len(found.removable)
    removed.put(number)


def test_lines_that_share_artifacts_lose_none_while_everything_unneeded_is_collected(tmp_path: Path) -> None:
    """Four seconds of three processes that run lines and one that collects whatever no newest run refers to."""
    processes = context()
    ended, failures, removed = processes.Event(), processes.Queue(), processes.Queue()
    collector = processes.Process(target=collect_always, args=(tmp_path, ended, removed))
    lines = [
        processes.Process(target=run_lines, args=(tmp_path, f"line-{number}", 4.0, failures)) for number in range(3)
    ]
    for process in [*lines, collector]:
        process.start()
    for process in lines:
        process.join()
    ended.set()
    assert removed.get(timeout=30) > 3
    collector.join()
    assert {process.exitcode for process in [*lines, collector]} == {0}
    assert failures.empty(), failures.get()
    assert list(Verification(tmp_path).findings()) == []


def test_no_read_fails_while_equal_content_is_published_again(tmp_path: Path) -> None:
    """Three seconds of three writers and two readers: before, 119 of 9,316 reads failed."""
    first = build(Store(tmp_path), "first", CONTENT | {"report/build": "first"})
    inode = Store(tmp_path).artifact_path(first["digest"]).stat().st_ino
    processes = context()
    ended, results = processes.Event(), processes.Queue()
    readers = [processes.Process(target=read, args=(tmp_path, first["digest"], ended, results)) for _ in range(2)]
    writers = [processes.Process(target=publish, args=(tmp_path, number, 3.0)) for number in range(3)]
    for process in [*readers, *writers]:
        process.start()
    for process in writers:
        process.join()
    ended.set()
    counts = sum((Counter(results.get(timeout=30)) for _ in readers), Counter())
    for process in readers:
        process.join()
    assert {process.exitcode for process in [*readers, *writers]} == {0}
    assert counts["read"] > 1000 and counts["failed"] == counts["mixed"] == counts["lost"] == 0, counts
    assert Store(tmp_path).artifact_path(first["digest"]).stat().st_ino == inode
    assert list(Verification(tmp_path).findings()) == []
    assert list((tmp_path / "work").iterdir()) == []
