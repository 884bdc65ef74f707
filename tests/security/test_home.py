"""A home is its owner's alone, or shared with one group on purpose; what a user names elsewhere is the user's."""

import grp
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from modelmill.services.home import describe_home, home_umask, make_private, prepare_home, share_home
from modelmill.services.secrets import secret_file
from modelmill.tasks.errors import InputError, ResourceError
from modelmill.tasks.files import atomic_path, named_output, write_output
from tests.homes import open_to_others

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives a folder to somebody else, as only root may")
DIGEST = "a" * 64
GROUP = grp.getgrgid(os.getegid()).gr_name


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home as earlier releases made it: everybody could read all of it."""
    home = tmp_path / "home"
    for name in ("keys/clean/a.json", f"artifacts/{DIGEST}/rows.parquet", "prefect/prefect.db"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("{}")
    for path in (home, *home.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return home


def test_a_new_home_is_its_owners_alone(tmp_path: Path) -> None:
    assert prepare_home(tmp_path / "deep" / "home") == 0o077
    assert mode(tmp_path / "deep" / "home") == 0o700
    assert open_to_others(tmp_path / "deep" / "home") == []


def test_a_home_made_before_is_closed_once_and_said_so(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare_home(home)
    assert mode(home) == 0o700
    assert "was open to others (mode 0755) and is closed now" in capsys.readouterr().err
    prepare_home(home)
    assert capsys.readouterr().err == ""


def test_a_group_shares_a_home_and_gives_it_back(home: Path) -> None:
    prepare_home(home)
    secret = secret_file(home, "ray")
    share_home(home, GROUP)
    (home / "prefect" / "prefect.db").chmod(0o640)  # as SQLite makes one whatever the umask is
    assert home_umask(home) == prepare_home(home) == 0o007
    assert mode(home) == mode(home / "artifacts" / DIGEST) == 0o2770
    assert mode(home / "artifacts" / DIGEST / "rows.parquet") == 0o660
    assert mode(home / "prefect" / "prefect.db") == 0o660
    assert mode(secret) == 0o640 and mode(secret.parent) == 0o2750
    assert describe_home(home)["shared"] is True
    make_private(home)
    assert open_to_others(home) == [] and home_umask(home) == 0o077


@as_root
def test_what_a_member_of_the_group_left_is_told_when_the_home_is_taken_back(home: Path) -> None:
    environment = os.environ | {"MILL_HOME": str(home)}
    command = [sys.executable, "-m", "modelmill.flows.cli", "home"]
    subprocess.run([*command, "--share", GROUP], env=environment, check=True, capture_output=True)
    (home / "lines" / "evil").parent.mkdir()
    (home / "lines" / "evil").symlink_to("/etc")
    (home / "artifacts" / "x").touch()
    os.chown(home / "artifacts" / "x", 65534, 65534)
    done = subprocess.run([*command, "--private"], env=environment, check=True, capture_output=True, text=True)
    assert "2 of them are links, or belong to others" in done.stdout


def test_modes_do_not_follow_links_out_of_the_home(home: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("")
    outside.chmod(0o604)
    (home / "link").symlink_to(outside)
    share_home(home, GROUP)
    make_private(home)
    assert mode(outside) == 0o604


def test_an_unknown_group_is_named(home: Path) -> None:
    with pytest.raises(InputError, match="no group 'nobodys-friends'"):
        share_home(home, "nobodys-friends")


@pytest.mark.parametrize(
    "made",
    (
        *("letters.txt", "artifacts/a.zip", "home.json", "prefect/x", "usr/bin", "cache/x", "work/thesis"),
        *(".git/HEAD", ".bashrc", "secrets/diary", "locks/x", "mlflow.db"),
    ),
)
def test_a_folder_of_other_things_is_refused_and_left_as_it_was(made: str, tmp_path: Path) -> None:
    """MILL_HOME=/ and MILL_HOME=$HOME must not close and fill what is everybody's."""
    (tmp_path / made).parent.mkdir(exist_ok=True)
    (tmp_path / made).write_text("[]")
    tmp_path.chmod(0o755)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ResourceError, match=r"is no home of Modelmill: it holds \.?\w+\.?\w*\. .*MILL_HOME"):
        prepare_home(tmp_path)
    assert mode(tmp_path) == 0o755 and sorted(tmp_path.rglob("*")) == before


def test_what_a_file_system_or_a_person_puts_into_a_home_is_no_hindrance(tmp_path: Path) -> None:
    for name in ("lost+found", ".snapshot", "secrets"):
        (tmp_path / name).mkdir()
    (tmp_path / "secrets" / "sources").mkdir()  # a secret may be given before the first run
    prepare_home(tmp_path)
    (tmp_path / "notes.txt").touch()
    prepare_home(tmp_path)


def test_a_folder_in_which_everybody_writes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "artifacts").mkdir()  # as anybody may plant one in /tmp
    tmp_path.chmod(0o1777)
    with pytest.raises(ResourceError, match="everybody may write in"):
        prepare_home(tmp_path)


def test_a_path_that_records_could_not_name_is_refused(tmp_path: Path) -> None:
    home = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    with pytest.raises(ResourceError, match=r"udcff.*is not UTF-8"):
        prepare_home(home)
    assert list(tmp_path.iterdir()) == []


@as_root
def test_a_home_of_somebody_else_is_refused_unless_shared(home: Path) -> None:
    os.chown(home, 65534, 65534)
    with pytest.raises(ResourceError, match="belongs to nobody, and you are root"):
        prepare_home(home)
    home.chmod(0o2770)
    assert prepare_home(home) == 0o007


def test_a_home_of_a_later_format_is_left_alone(home: Path) -> None:
    prepare_home(home)
    (home / "home.json").write_text('{"format": 99}')
    with pytest.raises(ResourceError, match="format 99"):
        prepare_home(home)


def test_what_libraries_write_for_the_owner_alone_is_opened_to_the_group_of_a_shared_home(tmp_path: Path) -> None:
    before = os.umask(0o007)
    try:
        with atomic_path(tmp_path / "model") as folder:
            folder.mkdir()
            descriptor = os.open(folder / "model.safetensors", os.O_CREAT | os.O_WRONLY, 0o600)
            os.close(descriptor)
    finally:
        os.umask(before)
    assert mode(tmp_path / "model" / "model.safetensors") == 0o660


def test_what_a_user_names_gets_the_users_umask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MILL_USER_UMASK", "027")
    write_output(tmp_path / "new" / "figures.json", "{}")
    assert mode(tmp_path / "new" / "figures.json") == 0o640 and mode(tmp_path / "new") == 0o750
    write_output(tmp_path / "home" / "reports" / "demo.html", "<p>")
    assert open_to_others(tmp_path / "home") == []
    with pytest.raises(InputError, match="is a folder"), named_output(tmp_path / "new"):
        pass


def test_every_command_closes_the_home_and_writes_under_its_umask(home: Path, tmp_path: Path) -> None:
    """As a user meets it: the old home is closed, what the command writes elsewhere is the user's to share."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "the cat sat on the mat and looked at the rain"}\n')
    command = [sys.executable, "-m", "modelmill.flows.cli"]
    environment = {name: value for name, value in os.environ.items() if name != "MILL_USER_UMASK"}
    environment |= {"MILL_HOME": str(home)}
    done = subprocess.run(
        [*command, "apply", "language", str(rows), str(tmp_path / "out.jsonl")],
        env=environment, umask=0o022, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "is closed now" in done.stderr
    assert mode(home) == 0o700 and mode(tmp_path / "out.jsonl") == 0o644
    shown = subprocess.run([*command, "home", "--json"], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(shown.stdout)["mode"] == "0700" and shown.stderr == ""
