"""Runs, kills, publications, collections and renames in any order: what somebody needs is never lost."""

import itertools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from modelmill.flows.commands import release_folder
from modelmill.flows.inspection import stage_views
from modelmill.flows.recipe import Line, Node
from modelmill.flows.runner import Session
from modelmill.services.compute import Compute, ComputeConfig
from modelmill.services.garbage import Survey, collect, survey
from modelmill.services.lines import complete_file, line_file, newest_build
from modelmill.services.store import Store
from modelmill.tasks.errors import InputError
from modelmill.tasks.files import read_json
from tests.reliability import toy_stage
from tests.reliability.toy_stage import Config, ToySpec

STAGES = ("ingest", "clean", "release")
TYPES = {"ingest": "pages", "clean": "documents", "release": "release"}
CHANGES = st.lists(st.sampled_from([0, 0, 1, 2]), min_size=3, max_size=3)  # of the version of each stage
RECIPES = {"demo": STAGES, "twin": STAGES[:2]}


class Killed(BaseException):
    """The process is gone."""


class Home(RuleBasedStateMachine):
    """The real runner and store over stages that take no time, beside a model of what must be there."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        self.patch = pytest.MonkeyPatch()
        self.home = Path(self.folder.name)
        self.patch.setenv("MILL_HOME", str(self.home))
        self.store = Store(self.home)
        self.versions = dict.fromkeys(STAGES, 0)
        self.ids = {stage: stage for stage in STAGES}
        self.earlier: str | None = None
        self.newest: dict[str, dict[str, str]] = {name: {} for name in RECIPES}
        self.complete: dict[str, dict[str, str]] = {name: {} for name in RECIPES}
        self.aliased: dict[str, str] = {}
        self.approved: Survey | None = None

    def teardown(self) -> None:
        self.patch.undo()
        self.folder.cleanup()

    def line(self, recipe: str) -> Line:
        nodes: list[Node] = []
        for stage in RECIPES[recipe]:
            version = self.versions[stage] + (recipe == "twin" and stage == "clean")
            config = Config(stage=stage, version=version, earlier=self.earlier if stage == "clean" else None)
            inputs = tuple((TYPES[STAGES[STAGES.index(node.spec.name)]], node.id) for node in nodes[-1:])
            nodes.append(Node(self.ids[stage], ToySpec(stage, TYPES[stage]), config, inputs))
        return Line(recipe, "", "process", tuple(nodes))

    def run_line(self, recipe: str, upto: int, renames: int | None = None) -> None:
        """Run the first stages of a recipe; killed before a rename if there are so many of them."""
        line = self.line(recipe)
        session = Session(line, self.home, Compute(ComputeConfig(backend="process"), self.home))
        nodes = line.nodes[:upto]
        try:
            with killed_after(renames):
                for node in nodes:
                    session.run_stage(node.id)
        except Killed:
            self.after_kill(line, session)
            return
        keys = {node.spec.name: session.plans[node.id].key or "" for node in nodes}
        self.newest[recipe] |= keys
        if len(nodes) == len(line.nodes):
            self.complete[recipe] = keys

    def after_kill(self, line: Line, session: Session) -> None:
        """What was about to be recorded is, or it is not; nothing else may have changed."""
        path = line_file(self.home, line.name)
        record = read_json(path) if path.exists() else {"stages": [], "time": 0.0}
        done = {entry.stage: entry.key for entry in session.plans.values()}
        for view in record["stages"]:
            build, stage = newest_build(view, record["time"]), view["stage"]
            before = self.newest[line.name].get(stage)
            assert (build and build["key"]) in (before, done.get(stage))
            if build:
                self.newest[line.name][stage] = build["key"]
        if complete_file(self.home, line.name).exists():
            keys = {view["stage"]: view["key"] for view in read_json(complete_file(self.home, line.name))["stages"]}
            assert keys in (self.complete[line.name], done)
            self.complete[line.name] = keys

    @initialize()
    def first_run(self) -> None:
        self.run_line("demo", 3)

    def change(self, changes: list[int]) -> None:
        for stage, by in zip(STAGES, changes, strict=True):
            self.versions[stage] += by

    @rule(recipe=st.sampled_from(sorted(RECIPES)), upto=st.integers(1, 3), changes=CHANGES)
    def run_part(self, recipe: str, upto: int, changes: list[int]) -> None:
        self.change(changes)
        self.run_line(recipe, upto)

    @rule(stage=st.sampled_from(STAGES))
    def rename(self, stage: str) -> None:
        self.ids[stage] = f"{stage}-{len(self.ids[stage])}"

    @rule()
    def compare_with_an_earlier_one(self) -> None:
        manifest = self.store.find("clean", self.newest["demo"].get("clean", ""))
        self.earlier = manifest["digest"] if manifest else None

    @rule(upto=st.integers(1, 3), renames=st.integers(0, 30), changes=CHANGES)
    def kill(self, upto: int, renames: int, changes: list[int]) -> None:
        self.change(changes)
        self.run_line("demo", upto, renames)

    @rule()
    def gc(self) -> None:
        collect(self.home, survey(self.home, 0, self.aliased), 0, self.aliased)

    @rule()
    def gc_asks(self) -> None:
        self.approved = survey(self.home, 0, self.aliased)

    @rule()
    def gc_is_answered(self) -> None:
        if self.approved:
            collect(self.home, self.approved, 0, self.aliased)
            self.approved = None

    @rule(upto=st.integers(1, 3), twin=st.booleans(), changes=CHANGES)
    def gc_and_a_twin_while_a_line_runs(self, upto: int, twin: bool, changes: list[int]) -> None:
        self.change(changes)

        def meanwhile(stage: str) -> None:
            found = survey(self.home, 0, self.aliased)
            if twin and stage == "release":
                toy_stage.MEANWHILE.clear()
                self.run_line("twin", 2)
            collect(self.home, found, 0, self.aliased)

        publish = Store.publish

        def publish_and_collect(store: Store, workspace: Path, manifest: dict[str, Any]) -> dict[str, Any]:
            published = publish(store, workspace, manifest)
            collect(self.home, survey(self.home, 0, self.aliased), 0, self.aliased)
            return published

        toy_stage.MEANWHILE.append(meanwhile)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Store, "publish", publish_and_collect)
            self.run_line("demo", upto)
        toy_stage.MEANWHILE.clear()

    @rule()
    def alias(self) -> None:
        manifest = self.store.find("release", self.newest["demo"].get("release", ""))
        self.aliased = {manifest["digest"]: "alias"} if manifest else {}

    @invariant()
    def everything_needed_is_there(self) -> None:
        for keys in [*self.newest.values(), *self.complete.values()]:
            for stage, key in keys.items():
                manifest = self.store.find(stage, key)
                assert manifest is not None, f"{stage} {key[:12]} is lost"
                assert self.store.damage(manifest) == []
                needed = [item["digest"] for item in manifest["inputs"]] + [*manifest["identity"]["external"].values()]
                assert all(self.store.artifact_path(digest).exists() for digest in needed)
                assert (self.store.evidence_path(manifest) / "report" / "build").read_text() == manifest["summary"]
        for digest in self.aliased:
            assert (self.store.artifact_path(digest) / "content").exists()

    @invariant()
    def what_people_ask_for_is_there(self) -> None:
        if release := self.newest["demo"].get("release"):
            manifest = self.store.find("release", release)
            assert manifest and release_folder("demo") == self.store.artifact_path(manifest["digest"]) / "model"
        for recipe, newest in self.newest.items():
            try:
                views = stage_views(recipe)
            except InputError:
                assert not newest
                continue
            shown = {view["stage"]: view["digest"] for view in views if view.get("path")}
            ids = {view["stage"] for view in views if view["id"] == self.ids[view["stage"]]}
            for stage in ids & newest.keys() & shown.keys():
                manifest: dict[str, Any] | None = self.store.find(stage, newest[stage])
                assert manifest and shown[stage] == manifest["digest"]


@contextmanager
def killed_after(renames: int | None) -> Iterator[None]:
    """Let the process die before a rename, which is how everything in a home comes to be or goes."""
    left = itertools.count(renames or 0, -1)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("rename", "replace"):
            real = getattr(Path, name)

            def counted(path: Path, target: Path, real: Any = real) -> Path:
                if renames is not None and next(left) <= 0:
                    raise Killed
                return real(path, target)

            patch.setattr(Path, name, counted)
        yield


TestHome = Home.TestCase
TestHome.settings = settings(
    max_examples=50, stateful_step_count=15, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)
