"""What Ray reads from the environment: a local Ray is closed, whatever was set; a cluster is as the user says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from modelmill.services import ray_session
from modelmill.services.ray_session import CLOSED_TO_OTHERS, join_ray, use_token_of
from modelmill.tasks.errors import ResourceError

CODE = (
    "import json, os, sys\nfrom pathlib import Path\nfrom modelmill.flows.environment import prepare_environment\n"
    "prepare_environment(Path(sys.argv[1]))\nprint(json.dumps(dict(os.environ)))\n"
)
MODE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ({}, CLOSED_TO_OTHERS),
        ({"RAY_ADDRESS": "local"}, CLOSED_TO_OTHERS),
        ({"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "of another cluster", MODE: "1"}, CLOSED_TO_OTHERS),
        ({"RAY_ADDRESS": "head:6379"}, {"RAY_ADDRESS": "head:6379"}),
        (
            {"RAY_ADDRESS": "head:6379", "RAY_AUTH_TOKEN": "its own"},
            {"RAY_ADDRESS": "head:6379", "RAY_AUTH_TOKEN": "its own", "RAY_AUTH_MODE": "token"},
        ),
        (
            {"RAY_ADDRESS": "head:6379", "RAY_AUTH_MODE": "disabled"},
            {"RAY_ADDRESS": "head:6379", "RAY_AUTH_MODE": "disabled"},
        ),
    ],
)
def test_the_environment_of_ray(user: dict[str, str], expected: dict[str, str], tmp_path: Path) -> None:
    names = ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", *CLOSED_TO_OTHERS)
    environment = {name: value for name, value in os.environ.items() if name not in names} | user
    command = [sys.executable, "-c", CODE, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert {name: value for name, value in json.loads(done.stdout).items() if name in names} == expected


def test_a_cluster_that_does_not_answer_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "set below, and set back afterwards")
    use_token_of(tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    monkeypatch.setattr(ray_session, "_ANSWER_SECONDS", 1.0)
    with pytest.raises(
        ResourceError, match=r"cannot join the Ray cluster at 127\.0\.0\.1:9 \(no answer\); start it, or"
    ):
        join_ray(tmp_path, of_stack=False)


def test_a_cluster_whose_token_is_missing_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._raylet import AuthenticationTokenLoader  # pyright: ignore[reportAttributeAccessIssue]

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    AuthenticationTokenLoader.instance().reset_cache()
    with pytest.raises(ResourceError, match="there is no token for the Ray cluster at"):
        join_ray(tmp_path, of_stack=False)
