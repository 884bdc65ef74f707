import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelmill.services.compute import Compute, ComputeConfig, RecordedPool
from modelmill.tasks.errors import InputError, ResourceError, WorkerLostError
from modelmill.tasks.journal import Journal, read_events
from modelmill.tasks.stage import Call


def doubled(x: int, folder: str) -> int:
    (Path(folder) / f"called-{x}").touch()
    return 2 * x


def failing_once(x: int, folder: str) -> int:
    marker = Path(folder) / f"failed-{x}"
    if not marker.exists():
        marker.touch()
        raise RuntimeError("broken for now")
    return x


def dying_once(x: int, folder: str) -> int:
    marker = Path(folder) / f"died-{x}"
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def dying(folder: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refusing(folder: str) -> None:
    (Path(folder) / f"refused-{len(list(Path(folder).iterdir()))}").touch()
    raise InputError("no pages in it; give it some")


def writing_to_a_full_disk(folder: str) -> None:
    (Path(folder) / f"called-{len(list(Path(folder).iterdir()))}").touch()
    try:
        Path("/dev/full").write_text("all of it")
    except OSError as error:
        raise RuntimeError("the library could not write") from error


def umask() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Umask:"))
    return int(line.split()[1], 8)


@pytest.fixture(scope="module")
def ray_compute(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compute]:
    compute = Compute(ComputeConfig(workers=2, failures=1, lost_workers=2), tmp_path_factory.mktemp("home"))
    compute.start()
    yield compute
    compute.stop()


@pytest.fixture
def ray_pool(ray_compute: Compute, tmp_path: Path) -> RecordedPool:
    return ray_compute.pool(tmp_path / "work", Journal(tmp_path / "work" / "journal.jsonl"))


def calls(folder: Path, number: int = 4) -> list[Call]:
    return [Call(f"part-{x}", {"x": x, "folder": str(folder)}) for x in range(number)]


def test_results_come_in_the_order_of_the_calls_and_finished_calls_are_not_repeated(
    ray_pool: RecordedPool, tmp_path: Path
) -> None:
    assert ray_pool.map(doubled, calls(tmp_path), "double") == [0, 2, 4, 6]
    (tmp_path / "called-3").unlink()
    (tmp_path / "work" / "done" / "double" / "part-1.json").unlink()
    (tmp_path / "called-1").unlink()
    assert ray_pool.map(doubled, calls(tmp_path), "double") == [0, 2, 4, 6]
    assert (tmp_path / "called-1").exists() and not (tmp_path / "called-3").exists()


def test_a_call_that_raised_is_repeated_within_its_limit(ray_pool: RecordedPool, tmp_path: Path) -> None:
    assert ray_pool.map(failing_once, calls(tmp_path), "fail") == [0, 1, 2, 3]
    events, _ = read_events(tmp_path / "work" / "journal.jsonl", 0)
    assert sum("failed" in event.get("text", "") for event in events) == 4


def test_workers_write_for_those_alone_who_may_use_the_home(ray_pool: RecordedPool) -> None:
    """The umask of the command reaches them through Ray's raylet."""
    assert ray_pool.map(umask, [Call("one", {})], "umask") == [umask()] == [0o077]


def test_lost_workers_are_counted_apart_from_failures(ray_pool: RecordedPool, tmp_path: Path) -> None:
    assert ray_pool.map(dying_once, calls(tmp_path, 1), "die") == [0]
    with pytest.raises(WorkerLostError, match="lost 3 times"):
        ray_pool.map(dying, [Call("a", {"folder": str(tmp_path)})], "dying")


def test_an_error_for_the_user_is_not_repeated_and_crosses_ray_as_itself(
    ray_pool: RecordedPool, tmp_path: Path
) -> None:
    folder = tmp_path / "marks"
    folder.mkdir()
    with pytest.raises(InputError, match="give it some"):
        ray_pool.map(refusing, [Call("a", {"folder": str(folder)})], "refuse")
    assert len(list(folder.iterdir())) == 1
    with pytest.raises(InputError, match="give it some"):
        ray_pool.run(refusing, {"folder": str(folder)}, "refuse")


def test_a_full_disk_is_said_and_not_tried_again(ray_pool: RecordedPool, pool: RecordedPool, tmp_path: Path) -> None:
    for number, where in enumerate((ray_pool, pool)):
        folder = tmp_path / f"calls-{number}"
        folder.mkdir()
        with pytest.raises(ResourceError, match=r"no space left .* then run the same command"):
            where.map(writing_to_a_full_disk, [Call("one", {"folder": str(folder)})], "writing")
        assert len(list(folder.iterdir())) == 1


def test_a_pool_in_this_process_gives_the_same_results(pool: RecordedPool, tmp_path: Path) -> None:
    assert pool.map(doubled, calls(tmp_path), "double") == [0, 2, 4, 6]
    assert pool.run(doubled, {"x": 5, "folder": str(tmp_path)}, "once") == 10


def test_a_gpu_recipe_on_a_machine_without_one_is_refused(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ResourceError, match="this machine has no usable GPU"):
        Compute(ComputeConfig(backend="process", device="cuda"), tmp_path).device()
    assert Compute(ComputeConfig(backend="process"), tmp_path).device() == "cpu"
