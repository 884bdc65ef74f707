"""A real line in a copy of the code: what rebuilds and what does not, as a user sees it from the command line."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from modelmill.services.prefect_server import prefect_api, wait_until_healthy
from tests.flows.forked import start_mill

ROOT = Path(__file__).resolve().parents[2]
RECIPE = """
name: files
compute: process
line: [ingest, clean, dedup]
ingest:
  sources:
    - {{kind: jsonl, name: notes, paths: ["{path}"]}}
clean:
  gopher: {{min_words: 20}}
  c4: {{enabled: false}}
  fineweb: {{enabled: false}}
dedup: {{}}
"""
_PROSE = "the line reads pages and keeps those that people would want to read because they say something about it"
WORDS = _PROSE.split()


@dataclass
class Checkout:
    """A copy of the package with a recipe over a file of its own, and a home. `api` is Prefect's, once it is there."""

    folder: Path
    api: str = ""

    def environment(self) -> dict[str, str]:
        environment = {"PYTHONPATH": str(self.folder), "MILL_HOME": str(self.folder / "home")}
        return environment | ({"PREFECT_API_URL": self.api} if self.api else {})

    def mill(self, *arguments: str, code: int = 0) -> str:
        """Run the command in this checkout; what it printed, or for another code than 0 what it complained of."""
        output, errors = self.folder / "output.log", self.folder / "errors.log"
        for log in (output, errors):
            log.unlink(missing_ok=True)
        process = start_mill(self.folder, list(arguments), self.environment(), output, errors)
        process.join()
        assert process.exitcode == code, errors.read_text()[-3000:] + output.read_text()[-1000:]
        return (errors if code else output).read_text()

    def first_run(self) -> None:
        """As a user's first command: it starts a server of its own."""
        command = [sys.executable, "-m", "modelmill.flows.cli", "run", "recipe.yaml"]
        subprocess.run(command, cwd=self.folder, env=os.environ | self.environment(), check=True)

    def statuses(self, *arguments: str) -> dict[str, str]:
        """Stage → what `mill plan` says of it."""
        plan = json.loads(self.mill("plan", "recipe.yaml", "--json", *arguments))
        return {stage["id"]: stage["status"] for stage in plan["stages"]}

    def shown(self) -> dict[str, dict[str, Any]]:
        return {stage["id"]: stage for stage in json.loads(self.mill("show", "--json"))["stages"]}

    def edit(self, module: str, old: str, new: str) -> None:
        path = self.folder / "modelmill" / module
        text = path.read_text()
        assert old in text, f"{module} has no {old!r}"
        path.write_text(text.replace(old, new, 1))


@pytest.fixture(scope="module")
def checkout(prefect_database: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("modelmill", "configs"):
        shutil.copytree(ROOT / name, folder / name)  # with numba's cache: compiling takes half a minute
    rows = [{"id": str(number), "url": f"https://a.example/{number}", "text": note(number)} for number in range(40)]
    (folder / "notes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "recipe.yaml").write_text(RECIPE.format(path=folder / "notes.jsonl"))
    checkout = Checkout(folder)
    checkout.first_run()
    with prefect_api(folder / "home") as api:
        wait_until_healthy(api)
        checkout.api = api.url
        yield checkout


def note(number: int) -> str:
    """Ten to sixty words of prose, different for every number."""
    generator = random.Random(number)
    sentences = [" ".join(generator.sample(WORDS, 8)).capitalize() + "." for _ in range(2 + number % 6)]
    return f"Note {number}. " + " ".join(sentences)


REUSED = {"ingest": "reuse", "clean": "reuse", "dedup": "reuse"}


def test_a_finished_line_is_reused(checkout: Checkout) -> None:
    assert checkout.statuses() == REUSED
    stages = checkout.shown()
    assert all(stages[name]["seconds"] > 0 and stages[name]["digest"] for name in REUSED)


def test_a_comment_a_docstring_and_a_reformatting_rebuild_nothing(checkout: Checkout) -> None:
    rules = "tasks/clean/stage.py"
    text = (checkout.folder / "modelmill" / rules).read_text()
    (checkout.folder / "modelmill" / rules).write_text(text.replace('"""', '"""Other words. ', 1) + "\n\n# a reason\n")
    assert checkout.statuses() == REUSED


def test_placement_never_changes_a_key(checkout: Checkout) -> None:
    moved = checkout.folder / "elsewhere"
    moved.mkdir()
    shutil.copy(checkout.folder / "notes.jsonl", moved / "notes.jsonl")
    recipe = (checkout.folder / "recipe.yaml").read_text()
    (checkout.folder / "moved.yaml").write_text(
        recipe.replace(str(checkout.folder / "notes.jsonl"), str(moved / "notes.jsonl"))
    )
    here = json.loads(checkout.mill("plan", "recipe.yaml", "--json"))
    there = json.loads(checkout.mill("plan", "moved.yaml", "--compute", "laptop", "--json"))
    assert [stage["key"] for stage in here["stages"]] == [stage["key"] for stage in there["stages"]]


def test_a_changed_setting_rebuilds_its_stage_and_says_why(checkout: Checkout) -> None:
    assert checkout.statuses("--set", "clean.gopher.min_words=45") == {
        "ingest": "reuse",
        "clean": "build",
        "dedup": "follows",
    }
    reasons = json.loads(
        checkout.mill("why", "clean", "--recipe", "recipe.yaml", "--set", "clean.gopher.min_words=45", "--json")
    )
    assert reasons["why"] == ["config gopher.min_words: 20 → 45"]


def test_changed_code_with_the_same_output_rebuilds_its_stage_only(checkout: Checkout) -> None:
    before = checkout.shown()
    with (checkout.folder / "modelmill/tasks/clean/stage.py").open("a") as file:
        file.write("\n_UNUSED = 1\n")
    assert checkout.statuses() == {"ingest": "reuse", "clean": "build", "dedup": "follows"}
    assert "code modelmill.tasks.clean.stage changed" in checkout.mill("why", "clean", "--recipe", "recipe.yaml")
    checkout.mill("run", "recipe.yaml")
    after = checkout.shown()
    assert (after["clean"]["status"], after["dedup"]["status"]) == ("build", "reuse")
    assert after["clean"]["key"] != before["clean"]["key"]
    assert after["clean"]["digest"] == before["clean"]["digest"]


def test_an_accepted_change_of_code_is_reused_and_recorded(checkout: Checkout) -> None:
    with (checkout.folder / "modelmill/tasks/dedup/stage.py").open("a") as file:
        file.write("\n_ALSO_UNUSED = 1\n")
    assert checkout.statuses()["dedup"] == "build"
    checkout.mill("accept", "dedup", "--why", "an unused constant", "--recipe", "recipe.yaml")
    assert checkout.statuses() == REUSED
    assert "an unused constant" in checkout.mill("why", "dedup", "--recipe", "recipe.yaml")
    refused = checkout.mill(
        "accept", "clean", "--why", "no", "--recipe", "recipe.yaml", "--set", "clean.gopher.min_words=45", code=4
    )
    assert "only a change of code can be accepted" in refused


def test_a_changed_rule_rebuilds_what_follows_when_the_output_differs(checkout: Checkout) -> None:
    before = checkout.shown()
    checkout.mill("run", "recipe.yaml", "--set", "clean.gopher.min_words=45")
    after = checkout.shown()
    assert after["clean"]["digest"] != before["clean"]["digest"]
    assert after["dedup"]["status"] == "build"
    assert after["clean"]["counts"]["out"] < before["clean"]["counts"]["out"]


def test_an_input_that_leaves_nothing_stops_with_the_reasons(checkout: Checkout) -> None:
    message = checkout.mill("run", "recipe.yaml", "--set", "clean.gopher.min_words=5000", code=3)
    assert "all 40 pages" in message and "gopher_too_few_words 40" in message
    # Nothing half-done is taken for whole: the same command fails the same way.
    assert "all 40 pages" in checkout.mill("run", "recipe.yaml", "--set", "clean.gopher.min_words=5000", code=3)


@pytest.mark.parametrize(("kind", "words"), [(signal.SIGINT, 33), (signal.SIGTERM, 34)], ids=["ctrl-c", "sigterm"])
def test_a_stop_has_its_code_and_the_same_command_continues(
    checkout: Checkout, kind: signal.Signals, words: int
) -> None:
    arguments = ["run", "recipe.yaml", "--set", f"clean.gopher.min_words={words}"]
    logs = checkout.folder / f"{kind.name}.log", checkout.folder / f"{kind.name}-error.log"
    workspaces = checkout.folder / "home" / "work"
    before = set(workspaces.glob("clean-*"))
    process = start_mill(checkout.folder, arguments, checkout.environment(), *logs)
    while before == set(workspaces.glob("clean-*")):
        assert process.is_alive(), logs[1].read_text()
        time.sleep(0.003)
    os.kill(process.pid or 0, kind)
    process.join()
    assert (process.exitcode, logs[1].read_text()) == (130, "stopped; run the same command again to continue\n")
    checkout.mill(*arguments)
    assert checkout.statuses(*arguments[2:]) == REUSED


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("run", "nowhere"), 2, "no recipe 'nowhere'"),
        (("run", "recipe.yaml", "--set", "clean.gopher.min_wrds=3"), 2, "did you mean 'min_words'"),
        (("run", "recipe.yaml", "--from", "dedupe"), 2, "has no stage 'dedupe'; did you mean 'dedup'"),
        (
            ("run", "recipe.yaml", "--set", 'ingest.sources=[{kind: jsonl, name: a, paths: ["gone.jsonl"]}]'),
            3,
            "gone.jsonl",
        ),
        (("show", "nothing"), 2, "has no stage 'nothing'"),
    ],
)
def test_a_mistake_is_one_message_and_a_code(
    checkout: Checkout, arguments: tuple[str, ...], code: int, message: str
) -> None:
    said = checkout.mill(*arguments, code=code)
    assert message in " ".join(said.split())
    assert "Traceback" not in said
