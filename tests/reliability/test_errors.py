"""What the machine or a user does wrong ends in one sentence and an exit code, never in a traceback."""

import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modelmill.flows.recipe import load_recipe, read_yaml
from modelmill.flows.runner import Session
from modelmill.services.compute import Compute, ComputeConfig
from modelmill.tasks.errors import RecipeError
from modelmill.tasks.journal import Journal, read_events
from tests.flows.tiny import Tiny

MILL = [sys.executable, "-m", "modelmill.flows.cli"]
_NAMESPACE = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
_MOUNTS = subprocess.run([*_NAMESPACE, "mount -t tmpfs none /mnt"], capture_output=True).returncode == 0
mounting = pytest.mark.skipif(not _MOUNTS, reason="this machine lets no test mount a small disk of its own")


def mill(*arguments: str | Path, shell: str = "", home: Path | None = None, cwd: Path | None = None) -> tuple[int, str]:
    """Exit code and stderr of a command; `shell`: what a shell says before it or after, with @ in its place."""
    command = shlex.join([*MILL, *map(str, arguments)])
    environment = os.environ | ({"MILL_HOME": str(home)} if home else {})
    if home is None:
        environment.pop("MILL_HOME")
    done = subprocess.run(
        ["bash", "-c", re.sub(r"(?<!\$)@", lambda _: command, shell or "@")],
        env=environment, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr


def mounted(mount: str) -> str:
    """A shell's words that run @ where a disk is mounted that nobody else sees."""
    script = f'{mount} && exec "$0" "$@"'
    return f"{shlex.join([*_NAMESPACE, script])} @"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def test_a_home_that_cannot_be_made(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for home in (file, file / "below" / "home"):
        code, said = mill("show", home=home)
        assert code == 6 and f"{file} is a file. Set MILL_HOME" in said


def test_a_current_folder_that_was_removed(tmp_path: Path) -> None:
    code, said = mill("show", shell="mkdir gone && cd gone && rmdir ../gone && @", cwd=tmp_path)
    assert code == 6 and "the current folder no longer exists" in said


def test_an_empty_or_relative_home_and_no_other_variable(tmp_path: Path) -> None:
    """`MILL_HOME=` made the current folder a home."""
    shell = f"env -i PYTHONPATH={shlex.quote(os.environ['PYTHONPATH'])} MILL_HOME={{}} @"
    for value, place in (("", ".mill"), ("deep/home", "deep/home")):
        code, said = mill("show", shell=shell.format(value), cwd=tmp_path)
        assert code == 3 and f"is recorded under {tmp_path / place}" in said


@pytest.mark.parametrize("arguments", [["home"], ["home", "--json"]])
def test_a_reader_that_has_gone_ends_a_command_quietly(home: Path, arguments: list[str]) -> None:
    code, said = mill(*arguments, shell="set -o pipefail; @ | true", home=home)
    assert code in (0, 141) and said == ""  # 0 where all was written before the reader went


def test_an_output_that_is_full_or_closed(home: Path) -> None:
    for arguments in (["home"], ["home", "--json"]):
        code, said = mill(*arguments, shell="@ > /dev/full", home=home)
        assert code == 6 and "no space is left where this command writes: its standard output" in said
        assert mill(*arguments, shell="@ >&-", home=home) == (0, "")


@mounting
@pytest.mark.parametrize("arguments", [["report"], ["look", "ingest"], ["run", "RECIPE"]])
def test_a_home_on_a_read_only_disk_is_read_and_not_written(
    finished: Path, recipe: Path, arguments: list[str], tmp_path: Path
) -> None:
    given = [str(recipe) if word == "RECIPE" else word for word in arguments]
    read_only = mounted(f"mount --bind {finished} {finished} && mount -o remount,ro,bind {finished}")
    assert mill("show", shell=read_only, home=finished) == (0, "")
    force = ["--force", "clean"] if arguments[0] == "run" else []
    code, said = mill(*given, *force, shell=read_only, home=finished)
    assert code == 6 and "its disk is read-only" in said and ".tmp" not in said
    if arguments[0] != "run":
        assert mill(*given, "--output", tmp_path / "page.html", shell=read_only, home=finished) == (0, "")
        assert (tmp_path / "page.html").stat().st_size > 1000


@mounting
@pytest.mark.parametrize("arguments", [["report"], ["look", "ingest"], ["apply", "language", "ROWS"]])
def test_a_full_disk_under_what_a_command_writes(finished: Path, arguments: list[str], tmp_path: Path) -> None:
    rows, small = tmp_path / "rows.jsonl", tmp_path / "small"
    rows.write_text('{"text": "the cat sat on the mat"}\n' * 2000)
    small.mkdir()
    given = [str(rows) if word == "ROWS" else word for word in arguments]
    target = [small / "out.jsonl"] if arguments[0] == "apply" else ["--output", small / "page.html"]
    shell = mounted(f"mount -t tmpfs -o size=4k none {small}")
    code, said = mill(*given, *target, shell=shell, home=finished)
    assert code == 6 and f"no space left while writing {small}" in said


@mounting
def test_a_home_on_a_full_disk(home: Path, recipe: Path) -> None:
    """What fills first is a database of the servers; to meet it they must start, which takes a while."""
    home.mkdir()
    code, said = mill("run", recipe, shell=mounted(f"mount -t tmpfs -o size=100k,mode=700 none {home}"), home=home)
    assert code == 6 and "its disk is full" in said


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tiny = Tiny(tmp_path_factory.mktemp("tiny") / "errors")
    tiny.folder.mkdir()
    tiny.write_recipe()
    tiny.write_pages()
    return tiny.recipe


@pytest.fixture(scope="module")
def finished(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one finished run, without its pages in Prefect and MLflow."""
    home = tmp_path_factory.mktemp("finished")
    session = Session(load_recipe(str(recipe)), home, Compute(ComputeConfig(backend="process"), home))
    for stage in ("ingest", "clean"):
        session.run_stage(stage)
    return home


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x00\xff\xfe binary", "not readable as YAML"),
        (b"name: [", "not readable as YAML"),
        (b"- ingest", "expected a mapping, found list"),
        (b"line: [ingest]\ningest: [1]", "expected settings as `key: value`"),
        (b"line: [ingest]\n7: 8", "unknown key 7"),
        (b"seed: " + b"9" * 5000, "not readable as YAML"),
        (b"when: 2026-99-99", "not readable as YAML"),
        (b"a: !!python/object/apply:os.system ['true']", "not readable as YAML"),
        (b"a: &a [*a]", "nested too deeply, or an alias in it stands for itself"),
        (b"a: " + b"[" * 10_000, "nested too deeply"),
        (BOMB.encode(), "values once its aliases are resolved"),
    ],
)
def test_a_hostile_recipe_is_one_sentence(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    started = time.monotonic()
    with pytest.raises(RecipeError, match=message) as found:
        load_recipe(str(path))
    assert len(str(found.value)) < 1000
    assert time.monotonic() - started < 10


def test_a_recipe_of_a_gigabyte_a_folder_and_a_pipe(tmp_path: Path) -> None:
    with (tmp_path / "large.yaml").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(RecipeError, match="a recipe has at most 256,000"):
        read_yaml(tmp_path / "large.yaml")
    os.mkfifo(tmp_path / "pipe.yaml")  # reading it would wait for ever
    for name in ("pipe.yaml", "."):
        with pytest.raises(RecipeError, match="neither a file nor one of"):
            load_recipe(str(tmp_path / name))


def test_an_override_that_is_no_yaml() -> None:
    for text in ("[", "a: b: c", "!!python/none"):
        with pytest.raises(RecipeError, match=r"--set ingest\.sources=.*not readable as YAML"):
            load_recipe("tiny", [f"ingest.sources={text}"])


def test_a_value_as_long_as_a_book_is_cut_in_the_message() -> None:
    with pytest.raises(RecipeError) as found:
        load_recipe("tiny", [f"tokenize.vocab_size={'x' * 10_000}"])
    assert len(str(found.value)) < 1000


def test_a_fault_of_ours_keeps_its_traceback(tmp_path: Path) -> None:
    program = "from modelmill.flows import boundary, cli; boundary.exit_code(lambda: 1 / 0, cli.errors)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1 and "ZeroDivisionError" in done.stderr and "Traceback" in done.stderr


def test_a_line_that_a_full_disk_cut_does_not_end_what_follows_the_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.note("before")
    with journal.path.open("ab") as file:
        file.write(b'{"kind": "note", "te')
    journal.note("lost with the line that was cut")
    journal.note("after")
    events, offset = read_events(journal.path, 0)
    assert [event["text"] for event in events] == ["before", "after"]
    assert offset == journal.path.stat().st_size
