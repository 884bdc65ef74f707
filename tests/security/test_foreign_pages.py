"""Prefect and MLflow as `mill up` and `mill run` start them, attacked by web pages and by strangers at their port."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect import get_client
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from modelmill.services.login import server_login
from modelmill.services.prefect_server import prefect_api, wait_until_healthy
from modelmill.services.processes import with_token
from modelmill.tasks.files import read_json
from tests.chromium import needs_chromium, open_browser
from tests.flows.tiny import Stack
from tests.security.foreign import attacked, is_harmless
from tests.servers import listening, serving

# What a page of another origin once made Prefect run before each flow run of a deployment.
SHELL = {"pull_steps": [{"prefect.deployments.steps.run_shell_script": {"script": "touch /tmp/owned"}}]}


@pytest.fixture(scope="module")
def kittens() -> Iterator[str]:
    """A page of another origin on this machine, as any program with a web server may offer it."""

    async def show(request: Request) -> Response:
        return HTMLResponse("<!doctype html><title>kittens</title><body>")

    with listening() as listener, serving(Starlette(routes=[Route("/", show)]), listener):
        yield f"http://localhost:{listener.getsockname()[1]}"


def prefect_state(stack: Stack) -> dict[str, Any]:
    with stack.client() as api:
        line = api.get("/deployments/name/line/line").json()
        runs = api.post("/flow_runs/count", json={"deployments": {"name": {"any_": ["line"]}}}).json()
    return {"id": line["id"], "pull_steps": line["pull_steps"], "runs": runs}


def experiments(stack: Stack) -> list[str]:
    with stack.mlflow() as mlflow:
        found = mlflow.post("/api/2.0/mlflow/experiments/search", json={"max_results": 100}).json()["experiments"]
    return sorted(one["name"] for one in found)


@pytest.mark.parametrize("logged_in", [True, False])
def test_prefect_obeys_no_foreign_origin_or_host_even_with_the_login(stack: Stack, logged_in: bool) -> None:
    before = prefect_state(stack)
    login = stack.login if logged_in else None
    for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Host": "evil.example:4200"}):
        for content_type in ("application/json", "text/plain", None):
            typed = headers | ({"Content-Type": content_type} if content_type else {})
            with httpx.Client(base_url=stack.api, headers=typed, auth=login, timeout=60) as evil:
                change = evil.patch(f"/deployments/{before['id']}", content=json.dumps(SHELL))
                start = evil.post(f"/deployments/{before['id']}/create_flow_run", content=b"{}")
                reading = evil.post("/deployments/filter", content=b"{}")
            assert {change.status_code, start.status_code, reading.status_code} == {403}
            assert "access-control-allow-origin" not in reading.headers
    assert prefect_state(stack) == before


def test_without_the_login_prefect_tells_its_health_alone(stack: Stack) -> None:
    before = prefect_state(stack)
    with httpx.Client(base_url=stack.api, timeout=60) as stranger:
        assert stranger.get("/health").json() is True
        assert stranger.get("/admin/settings").status_code == 401
        for manual in ("/docs", "/redoc", "/openapi.json", "/api/docs"):  # they load scripts from elsewhere
            assert stranger.get(stack.api.removesuffix("/api") + manual).status_code == 404
        assert stranger.post(f"/deployments/{before['id']}/create_flow_run", json={}).status_code == 401
        for wrong in (("mill", "guess"), ("mill", ""), ("", stack.login[1])):
            assert stranger.post("/deployments/filter", json={}, auth=wrong).status_code == 401
    assert prefect_state(stack) == before
    url = stack.api.replace("http", "ws")
    with connect(f"{url}/events/in", subprotocols=["prefect"]) as websocket:  # type: ignore[list-item]
        websocket.send(json.dumps({"type": "auth", "token": "guess"}))
        with pytest.raises(ConnectionClosed):
            websocket.recv(10)
    with pytest.raises(InvalidStatus, match="403"), connect(f"{url}/events/in", origin="http://evil.example"):  # type: ignore[arg-type]
        pass


def test_the_login_is_in_a_private_file_alone(stack: Stack) -> None:
    secret = stack.login[1]
    assert (stack.home / "secrets" / "login").stat().st_mode & 0o077 == 0
    assert secret not in (stack.home / "stack" / "stack.json").read_text()
    for log in (stack.home / "stack").glob("*.log"):
        assert secret not in log.read_text(errors="replace"), log
    token = read_json(stack.home / "stack" / "stack.json")["token"]
    assert all(secret not in " ".join(process.cmdline()) for process in with_token(token))


def test_a_command_of_the_same_home_finds_the_server_and_the_login(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with prefect_api(stack.home) as api:
        assert (api.url, api.login) == (stack.api, stack.parts["login"])
        settings: Any = {PREFECT_API_URL: api.url, PREFECT_API_AUTH_STRING: os.environ["PREFECT_API_AUTH_STRING"]}
    with temporary_settings(settings), get_client(sync_client=True) as client:
        assert client.read_deployment_by_name("line/line").name == "line"


def test_without_the_login_mlflow_tells_its_health_alone(stack: Stack) -> None:
    before = experiments(stack)
    with httpx.Client(base_url=stack.parts["mlflow"], timeout=60) as stranger:
        assert stranger.get("/health").text == "OK"
        assert stranger.get("/").status_code == 401
        for wrong in (("mill", "guess"), ("mill", ""), ("", stack.login[1])):
            for path in (
                "/",
                "/ajax-api/2.0/mlflow/experiments/search?max_results=9",
                "/health/../graphql",
                "/version",
            ):
                refused = stranger.get(path, auth=wrong)
                assert refused.status_code == 401 and "mill up" in refused.headers["www-authenticate"]
            made = stranger.post("/api/2.0/mlflow/experiments/create", json={"name": "owned"}, auth=wrong)
            assert made.status_code == 401
    assert experiments(stack) == before


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/api/2.0/mlflow/experiments/create"), ("POST", "/ajax-api/2.0/mlflow/experiments/create"),
     ("POST", "/graphql"), ("GET", "/api/2.0/mlflow/experiments/search?max_results=9"),
     ("GET", "/"), ("GET", "/health"),
     ("POST", "/v1/traces"), ("PUT", "/api/2.0/mlflow-artifacts/artifacts/x")],
)  # fmt: skip
def test_mlflow_answers_no_foreign_origin_or_host_on_any_route(stack: Stack, method: str, path: str) -> None:
    before = experiments(stack)
    for headers in ({"Origin": "http://evil.example"}, {"Origin": "http://localhost:9"}, {"Host": "evil.example"}):
        for content_type in ("application/json", "text/plain"):
            answer = httpx.request(
                method, stack.parts["mlflow"] + path, content=json.dumps({"name": "owned"}), auth=stack.login,
                headers=headers | {"Content-Type": content_type},
            )  # fmt: skip
            assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers
    assert experiments(stack) == before


def test_the_pages_open_under_both_names_of_this_machine(stack: Stack) -> None:
    for part in ("prefect", "mlflow"):
        for name in ("127.0.0.1", "localhost"):
            login = stack.login if part == "mlflow" else None  # Prefect's page asks by itself
            answer = httpx.get(stack.parts[part].replace("127.0.0.1", name), auth=login)
            assert answer.status_code == 200 and "<html" in answer.text
            assert answer.headers["x-frame-options"] == "SAMEORIGIN"


@needs_chromium
def test_a_page_in_a_real_browser_can_do_nothing_to_either(stack: Stack, kittens: str) -> None:
    before, named = prefect_state(stack), experiments(stack)
    api = stack.api.replace("127.0.0.1", "localhost")
    with open_browser() as browser:
        page = browser.new_page()
        page.goto(kittens)
        for url, body, websocket in (
            (f"{api}/deployments/{before['id']}", json.dumps(SHELL), f"{api.replace('http', 'ws')}/events/in"),
            (f"{stack.api}/deployments/{before['id']}/create_flow_run", '{"state": {"type": "SCHEDULED"}}', None),
            (f"{stack.parts['mlflow']}/ajax-api/2.0/mlflow/experiments/create", '{"name": "owned"}', None),
        ):
            tried = attacked(page, url, body, websocket)
            assert is_harmless(tried), tried
    assert prefect_state(stack) == before
    assert experiments(stack) == named


def test_the_server_that_a_run_starts_for_itself_is_closed_alike(
    prefect_database: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with prefect_api(tmp_path) as api:
        assert os.environ["PREFECT_API_AUTH_STRING"] == api.login == server_login(tmp_path)
        wait_until_healthy(api)
        login = tuple(server_login(tmp_path).split(":"))
        assert httpx.get(f"{api.url}/admin/version", auth=login).status_code == 200  # type: ignore[arg-type]
        assert httpx.get(f"{api.url}/admin/version").status_code == 401
        for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
            assert httpx.get(f"{api.url}/admin/version", auth=login, headers=headers).status_code == 403  # type: ignore[arg-type]
    assert "PREFECT_API_AUTH_STRING" not in os.environ


def test_without_an_address_no_flow_starts_a_server_that_any_page_may_use() -> None:
    unset: Any = {PREFECT_API_URL: None}
    with temporary_settings(unset), pytest.raises(ValueError, match="No Prefect API URL provided"):
        get_client()


def test_the_login_of_a_users_own_server_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    for login in ("me:mine", None):
        monkeypatch.setenv("PREFECT_API_AUTH_STRING", login) if login else monkeypatch.delenv("PREFECT_API_AUTH_STRING")
        with prefect_api(tmp_path) as api:
            assert api.login == os.environ.get("PREFECT_API_AUTH_STRING") == login
    assert not (tmp_path / "secrets").exists()
