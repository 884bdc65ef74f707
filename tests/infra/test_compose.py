"""docker-compose.yml: what it promises about health, secrets and ports, and that Compose accepts it."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docker-compose.yml"
SECRETS = ("POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY", "RAY_AUTH_TOKEN", "MILL_PASSWORD")


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    return YAML(typ="safe", pure=True).load(FILE.read_text())["services"]


def test_every_part_of_the_stack_is_there_with_a_health_check(services: dict[str, dict[str, Any]]) -> None:
    assert set(services) == {"postgres", "s3", "prefect", "mlflow", "ray-head", "ray-worker", "deployments"}
    assert [name for name, service in services.items() if "healthcheck" not in service] == []


def test_ports_are_open_on_loopback_only(services: dict[str, dict[str, Any]]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert ports
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_secrets_come_from_the_environment_and_have_no_default() -> None:
    used = re.findall(r"\$\{([A-Z0-9_]+)([^}]*)\}", FILE.read_text())
    assert {name for name, _ in used} == set(SECRETS)
    assert [name for name, rest in used if not rest.startswith(":?")] == []
    example = (ROOT / "infra/docker/environment.example").read_text()
    assert re.findall(r"^([A-Z0-9_]+)=(.*)$", example, re.M) == [(name, "") for name in SECRETS]


def test_prefect_and_mlflow_stand_behind_the_guard_and_ask_for_one_login(
    services: dict[str, dict[str, Any]],
) -> None:
    modules = {"prefect": "modelmill.flows.prefect_process", "mlflow": "modelmill.services.mlflow_process"}
    for name, module in modules.items():
        command = services[name]["command"]
        port = next(item.partition("=")[2] for item in command if item.startswith("--port="))
        assert command[:3] == ["python", "-m", module] and f"--allow-host={name}:{port}" in command
    password = "${MILL_PASSWORD:?the password of Prefect and MLflow, whose user is mill}"
    assert services["prefect"]["environment"]["PREFECT_SERVER_API_AUTH_STRING"] == f"mill:{password}"
    assert services["deployments"]["environment"]["PREFECT_API_AUTH_STRING"] == f"mill:{password}"
    for name in ("mlflow", "deployments"):
        given = services[name]["environment"]
        assert (given["MLFLOW_TRACKING_USERNAME"], given["MLFLOW_TRACKING_PASSWORD"]) == ("mill", password)


def test_files_that_compose_and_the_image_name_exist() -> None:
    assert (ROOT / "infra/docker/databases.sh").stat().st_mode & 0o111
    copied = re.findall(r"^COPY (.+) \S+$", (ROOT / "infra/docker/Dockerfile").read_text(), re.M)
    missing = [name for line in copied for name in line.split() if not (ROOT / name).exists()]
    assert missing == []


def compose() -> list[str] | None:
    """The Compose client, as a plug-in of docker or alone; neither needs a running daemon for `config`."""
    if shutil.which("docker"):
        probe = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        if probe.returncode == 0:
            return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else None


@pytest.mark.skipif(compose() is None, reason="no docker compose client on this machine")
def test_compose_accepts_the_file_with_all_secrets_and_refuses_it_without_one(tmp_path: Path) -> None:
    client = [
        *(compose() or []),
        "--project-directory",
        str(ROOT),
        "--env-file",
        str(tmp_path / "env"),
        "-f",
        str(FILE),
    ]
    (tmp_path / "env").write_text("".join(f"{name}=a-value\n" for name in SECRETS))
    plain = {name: value for name, value in os.environ.items() if name not in SECRETS}
    accepted = subprocess.run([*client, "config"], env=plain, capture_output=True, text=True, check=False)
    assert accepted.returncode == 0, accepted.stderr
    (tmp_path / "env").write_text("".join(f"{name}=a-value\n" for name in SECRETS[1:]))
    refused = subprocess.run([*client, "config"], env=plain, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "the password of the Postgres user" in refused.stderr
