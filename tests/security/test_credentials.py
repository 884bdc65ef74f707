"""Children that handle text of strangers know none of the user's credentials."""

import json
import os
import sys

import pytest

from modelmill.tasks.ingest.companion import Companion
from modelmill.tasks.ingest.documentation import site
from tests.security import environment_child

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "s1", "AWS_SESSION_TOKEN": "s2", "AWS_PROFILE": "s3", "HF_TOKEN": "s4",
    "RAY_AUTH_TOKEN": "s5", "RAY_AUTH_TOKEN_PATH": "/s6", "PREFECT_API_AUTH_STRING": "s7",
    "PREFECT_SERVER_API_AUTH_STRING": "s8", "MLFLOW_TRACKING_PASSWORD": "s9", "PREFECT_API_URL": "https://u:s10@a.org",
    "HTTPS_PROXY": "http://u:s11@proxy", "SSH_AUTH_SOCK": "/s12", "WHATEVER_ELSE": "s13",
}  # fmt: skip


@pytest.fixture
def with_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


def test_an_extractor_sees_no_credential(with_secrets: None) -> None:
    with Companion(environment_child.__name__) as companion:
        seen = json.loads(companion.ask(b"", 30))
    assert not SECRETS.keys() & seen.keys()
    assert not set(SECRETS.values()) & set(seen.values())
    assert seen["PATH"] == os.environ["PATH"]


def test_a_renderer_of_documentation_sees_no_credential(with_secrets: None, tmp_path: object) -> None:
    made = site.DocumentationSite(("json",), 1, tmp_path)  # pyright: ignore[reportArgumentType]
    renderer = made._renderers.get()
    assert not SECRETS.keys() & renderer._environment.keys()
    assert "MODELMILL_COMMAND" not in renderer._environment, "a page that prints its environment would change"
    assert sys.executable in renderer._command
