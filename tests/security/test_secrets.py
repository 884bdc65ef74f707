from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from modelmill.services.secrets import read_secret, secret_file


def test_all_who_ask_first_get_the_same_secret_that_others_cannot_read(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with ThreadPoolExecutor(8) as threads:
        found = set(threads.map(lambda _: read_secret(tmp_path, "ray"), range(32)))
    assert len(found) == 1 and len(found.pop()) == 64
    assert secret_file(tmp_path, "ray").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    assert [path.name for path in (tmp_path / "secrets").iterdir()] == ["ray"]
    assert read_secret(tmp_path, "other") != read_secret(tmp_path, "ray")


def test_a_group_that_shares_the_home_reads_its_secrets(tmp_path: Path) -> None:
    tmp_path.chmod(0o2770)
    assert secret_file(tmp_path, "ray").stat().st_mode & 0o777 == 0o640
