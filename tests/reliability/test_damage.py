"""What was damaged on the disk is found before it is used, and said in one sentence."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from modelmill.flows.commands import release_folder
from modelmill.flows.inspection import stage_views
from modelmill.flows.recipe import Line, Node
from modelmill.flows.runner import Session
from modelmill.services.compute import Compute, ComputeConfig
from modelmill.services.store import Store
from modelmill.tasks.errors import ContractError, ResourceError
from modelmill.tasks.files import read_json
from tests.reliability.toy_stage import Config, ToySpec

TYPES = {"ingest": "pages", "clean": "documents", "release": "release"}


def line(version: int = 0, earlier: str | None = None) -> Line:
    nodes: list[Node] = []
    for stage, kind in TYPES.items():
        config = Config(stage=stage, version=version if stage == "release" else 0)
        if stage == "release":
            config = Config(stage=stage, version=version, earlier=earlier)
        nodes.append(Node(stage, ToySpec(stage, kind), config, tuple((TYPES[node.id], node.id) for node in nodes[-1:])))
    return Line("toy", "", "process", tuple(nodes))


def run(home: Path, force: str = "", **changes: Any) -> dict[str, str]:
    """Status of each stage of a run."""
    wanted = line(**changes)
    compute = Compute(ComputeConfig(backend="process"), home)
    session = Session(wanted, home, compute, force=frozenset({force} - {""}))
    for node in wanted.nodes:
        session.run_stage(node.id)
    return {stage: entry.status for stage, entry in session.plans.items()}


def flip(path: Path) -> None:
    """Change one bit, and leave size and time of change as they are."""
    before, content = path.stat(), path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def content_of(stage: str) -> Path:
    (path,) = [Path(view["path"]) / "content" for view in stage_views("toy") if view["id"] == stage]
    return path


@pytest.mark.parametrize(
    "damage", [flip, Path.unlink, lambda path: path.write_bytes(b"")], ids=["bit", "gone", "empty"]
)
@pytest.mark.parametrize("stage", TYPES)
def test_a_damaged_artifact_is_neither_reused_nor_read_and_its_rebuild_heals_it(
    home: Path, stage: str, damage: Any
) -> None:
    run(home)
    path = content_of(stage)
    damage(path)
    with pytest.raises(ContractError, match=f"content of stage {stage} changed.*`mill rerun {stage}`"):
        run(home)
    assert run(home, force=stage)[stage] == "build"
    assert path.exists()
    assert set(run(home).values()) == {"reuse"}


def test_a_damaged_input_stops_the_build_over_it(home: Path) -> None:
    run(home)
    entered = Session(line(version=2), home, Compute(ComputeConfig(backend="process"), home))
    for stage in ("ingest", "clean"):
        entered.run_stage(stage)
    flip(content_of("clean"))  # after it was taken for reuse
    with pytest.raises(ContractError, match="stage clean changed"):
        entered.run_stage("release")


def test_a_damaged_artifact_to_compare_with_stops_the_build(home: Path) -> None:
    run(home)
    earlier = content_of("release").parent
    run(home, version=2)
    flip(earlier / "content")
    with pytest.raises(ContractError, match="stage release changed"):
        run(home, version=4, earlier=earlier.name)


def test_a_damaged_release_is_not_served(home: Path) -> None:
    run(home)
    assert release_folder("toy") == content_of("release").parent / "model"
    flip(content_of("release"))
    with pytest.raises(ContractError, match="stage release changed"):
        release_folder(None)


@pytest.mark.parametrize("name", ["key", "line", "complete", "latest", "identity"])
@pytest.mark.parametrize("content", [b"", b"\x00\xff", b"[1]", b'{"stages": 3, "inputs": 4}'])
def test_a_run_over_an_unreadable_record_builds_or_reads_on(home: Path, name: str, content: bytes) -> None:
    run(home)
    (key,) = home.glob("keys/clean/*.json")
    workspace = home / "work" / f"clean-{key.stem[:16]}"
    paths = {
        "key": key, "line": home / "lines" / "toy.json", "complete": home / "lines" / "complete" / "toy.json",
        "latest": home / "latest", "identity": workspace / "identity.json",
    }  # fmt: skip
    paths[name].parent.mkdir(exist_ok=True)
    paths[name].write_bytes(content)
    found = run(home)
    assert found == {"ingest": "reuse", "clean": "build" if name == "key" else "reuse", "release": "reuse"}
    assert all(view["path"] for view in stage_views(None))
    assert read_json(home / "lines" / "toy.json")["name"] == "toy"


@pytest.mark.parametrize("folder", ["keys", "lines", "work"])
def test_a_full_disk_at_any_record_is_one_sentence_and_the_same_command_continues(
    home: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(home)
    opened = Path.open

    def full(path: Path, mode: str = "r", *others: Any, **options: Any) -> Any:
        if ("w" in mode or "a" in mode) and path.relative_to(home).parts[0] == folder and path.suffix == ".tmp":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return opened(path, mode, *others, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(ResourceError, match=r"no space left while writing .*run the same command"):
            run(home, version=2)
    assert set(run(home).values()) == {"reuse"}
    assert run(home, version=2)["release"] in ("build", "resume", "reuse")
    assert Store(home).damage(Store(home).builds("release")[0]) == []
