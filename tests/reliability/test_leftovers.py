"""What is left of commands that were killed: nothing after a moment, and nothing at all after the next command."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from modelmill.services.scratch import own_folder, scratch_folder
from modelmill.tasks.errors import ResourceError
from tests.flows.forked import start_mill
from tests.flows.tiny import Tiny

ROOT = Path(__file__).resolve().parents[2]
_KEEPS = "import sys, tempfile\nfrom pathlib import Path\nfrom modelmill.services.scratch import keep_temporary_files\n"
_KEEPS += "keep_temporary_files(Path(sys.argv[1]))\n"


def wait_for(condition: Callable[[], object], what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def alive(home: Path) -> list[str]:
    """Processes that a command of this home started, that name it, or that hold its temporary files open."""
    found, scratch = [], str(scratch_folder(home))
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), process.environ().get("MODELMILL_COMMAND", "")]
            words += [file.path for file in process.open_files()]
        except (psutil.Error, OSError):
            continue
        if process.pid != os.getpid() and any(scratch in word for word in words):
            found.append(f"{process.pid} {process.name()}")
    return found


def files(home: Path) -> list[str]:
    """What grows if something is left: temporary folders, locks, workspaces, shared memory and semaphores."""
    scratch = scratch_folder(home)
    found = [*scratch.rglob("*"), *(home / "locks").iterdir(), *(home / "work").glob("*")]
    found += [path for path in Path("/dev/shm").iterdir() if any(own.name in path.name for own in scratch.iterdir())]
    return sorted(map(str, found))


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home whose temporary folder is empty at the end."""
    yield tmp_path / "home"
    scratch_folder(tmp_path / "home").rmdir()


@pytest.mark.timeout(900)
def test_five_runs_one_of_them_killed_leave_what_one_leaves(prefect_database: None, home: Path, tmp_path: Path) -> None:
    """Takes a minute and a half: five times Prefect's server, Ray and MLflow."""
    tiny = Tiny(tmp_path / "leftovers")
    tiny.folder.mkdir()
    tiny.write_recipe()
    compute = tmp_path / "two.yaml"
    compute.write_text("{backend: ray, workers: 2, device: cpu}")
    log = tmp_path / "output.log"
    after, sessions = [], []
    tiny.write_pages()
    command = ["run", str(tiny.recipe), "--compute", str(compute), "--force", "ingest", "--force", "clean"]
    for turn in range(5):
        environment = {"MILL_HOME": str(home), "PREFECT_HOME": os.environ["PREFECT_HOME"]}
        run = start_mill(ROOT, command, environment, log, log)
        sessions.append(f"*_{run.pid}")
        if turn == 2:
            wait_for(lambda: len([name for name in alive(home) if "raylet" in name]), "Ray did not start")
            os.kill(run.pid or 0, signal.SIGKILL)
            run.join()
            continue  # Ray ends by itself; what has not yet when the next command starts, that one ends
        run.join()
        assert run.exitcode == 0, log.read_text()
        assert alive(home) == []
        after.append(files(home))
    assert after[0] == after[1] == after[2] == after[3]
    assert not [path for session in sessions for path in Path("/tmp/ray").glob(f"session{session}")]


def test_the_workers_of_a_killed_apply_end_with_it(home: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    row = '{"id": "%d", "url": "http://a.org", "text": "the line reads pages and keeps those that people read"}\n'
    rows.write_text("".join(row % number for number in range(200_000)))
    mill = [sys.executable, "-m", "modelmill.flows.cli"]
    command = [
        *mill,
        "apply",
        "language",
        str(rows),
        str(tmp_path / "kept.jsonl"),
    ]
    environment = os.environ | {"MILL_HOME": str(home)}
    apply = subprocess.Popen([*command, "--workers", "2"], env=environment, cwd=ROOT)

    def workers() -> list[psutil.Process]:
        found = []
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(apply.pid).children()
            found = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
        return found

    wait_for(lambda: apply.poll() is not None or len(workers()) == 2, "two workers did not start")
    assert apply.poll() is None
    started = workers()
    apply.kill()
    apply.wait()
    _, left = psutil.wait_procs(started, timeout=10)
    assert left == []
    assert len(list(tmp_path.glob(".kept.jsonl.*"))) == 1
    subprocess.run([*mill, "plan", "--help"], env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    assert list(tmp_path.glob(".*")) == [], "the next command removes the half file, too"


def test_the_next_command_removes_what_a_killed_one_left_and_ends_its_children(tmp_path: Path) -> None:
    code = _KEEPS + (
        "import multiprocessing, subprocess\n"
        "tempfile.mkdtemp()\n"
        "lock = multiprocessing.get_context('spawn').Lock()\n"
        "sleep = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        "print(subprocess.Popen(sleep, start_new_session=True).pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as killed:
        assert killed.stdout
        child = psutil.Process(int(killed.stdout.readline()))
        (folder,) = scratch_folder(tmp_path).iterdir()
        assert len(list((folder / "tmp").iterdir())) == 1
        assert len(list(Path("/dev/shm").glob(f"sem.mill-{folder.name}-*"))) == 1
        os.killpg(killed.pid, signal.SIGKILL)  # with it multiprocessing's own tracker of semaphores
    assert child.is_running()
    own = own_folder(tmp_path)
    psutil.wait_procs([child], timeout=10)
    assert not child.is_running()
    assert list(scratch_folder(tmp_path).iterdir()) == [own]
    assert not list(Path("/dev/shm").glob(f"sem.mill-{folder.name}-*"))


def test_a_command_that_lives_keeps_its_files_and_one_that_ends_removes_them(tmp_path: Path) -> None:
    code = _KEEPS + "print(tempfile.mkdtemp(), flush=True)\nsys.stdin.read()\n"
    command = [sys.executable, "-c", code, str(tmp_path)]
    for chosen in ({}, {"TMPDIR": str(tmp_path / "large")}):
        (tmp_path / "large").mkdir(exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if name != "TMPDIR"} | chosen
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as living:
            assert living.stdin and living.stdout
            folder = Path(living.stdout.readline().decode().strip())
            assert folder.is_relative_to(chosen.get("TMPDIR", scratch_folder(tmp_path)))
            other = subprocess.run(command, input=b"", env=environment, capture_output=True, check=True)
            assert not Path(other.stdout.decode().strip()).exists()
            assert folder.is_dir()
            living.stdin.close()
        assert not folder.exists()
        assert not list((tmp_path / "large").iterdir())


def test_the_folder_is_private_and_a_link_in_its_place_is_refused(tmp_path: Path) -> None:
    folder = scratch_folder(tmp_path)
    assert folder.name.startswith(f"mill-{os.geteuid()}-") and len(str(folder)) < 40
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    assert scratch_folder(tmp_path).stat().st_mode & 0o777 == 0o700
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    try:
        with pytest.raises(ResourceError, match="is not a folder of this user"):
            scratch_folder(tmp_path)
    finally:
        folder.unlink()


def test_a_start_of_ray_that_takes_too_long_is_repeated_and_then_one_sentence(tmp_path: Path) -> None:
    code = _KEEPS + (
        "from modelmill.flows.environment import prepare_environment\n"
        "prepare_environment(Path(sys.argv[1]))\n"
        "from modelmill.services.compute import Compute, ComputeConfig\n"
        "from modelmill.tasks.errors import ResourceError\n"
        "import psutil\n"
        "try:\n    Compute(ComputeConfig(workers=1), Path(sys.argv[1])).start()\n"
        "except ResourceError as error:\n    print(error)\n"
        "print(len(psutil.Process().children(recursive=True)))\n"
    )
    environment = os.environ | {"RAY_gcs_server_port_wait_time_s": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=environment, capture_output=True, text=True, check=True
    )
    message, children = done.stdout.splitlines()
    assert message.startswith("Ray did not start in 3 attempts ("), done.stdout + done.stderr
    assert f"its logs are in {tmp_path}/logs/ray." in message
    assert len(list((tmp_path / "logs" / "ray").iterdir())) == 3
    assert children == "0"
