"""The guard in front of every server: what passes, what does not, over real sockets and from a real browser."""

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from modelmill.services.origin_guard import OriginGuard, is_loopback, server_names
from modelmill.tasks.errors import InputError
from tests.chromium import needs_chromium, open_browser
from tests.security.foreign import attacked, is_harmless
from tests.servers import listening, serving


@dataclass
class Guarded:
    """A server that opens itself to all origins, as Prefect's does, behind the guard; and what got through to it."""

    port: int
    seen: list[str] = field(default_factory=list)

    def application(self) -> OriginGuard:
        async def obey(request: Request) -> Response:
            self.seen.append(f"{request.method} {request.headers.get('origin')}")
            return JSONResponse({"state": "changed"}, headers={"Access-Control-Allow-Origin": "*"})

        async def talk(websocket: WebSocket) -> None:
            self.seen.append("websocket")
            await websocket.accept(subprotocol="prefect" if websocket.scope["subprotocols"] else None)
            await websocket.close()

        async def show(request: Request) -> Response:
            return HTMLResponse("<p>own page</p>")

        methods = ["GET", "POST", "PATCH", "DELETE", "OPTIONS"]
        routes = [Route("/", show), Route("/api", obey, methods=methods), WebSocketRoute("/ws", talk)]
        return OriginGuard(Starlette(routes=routes), server_names(self.port, ["mill.example.org"]))

    def get(self, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx.get(f"http://127.0.0.1:{self.port}/api", headers=named)


@pytest.fixture(scope="module")
def guarded() -> Iterator[Guarded]:
    with listening() as listener:
        server = Guarded(listener.getsockname()[1])
        with serving(server.application(), listener):
            yield server


@pytest.fixture(scope="module")
def foreign_port() -> Iterator[int]:
    """A web server of somebody else, on this machine or under a name that leads here."""

    async def show(request: Request) -> Response:
        return HTMLResponse("<!doctype html><title>kittens</title><body>")

    with listening() as listener, serving(Starlette(routes=[Route("/", show)]), listener):
        yield listener.getsockname()[1]


@pytest.mark.parametrize("host", ["127.0.0.1:{}", "localhost:{}", "[::1]:{}", "LOCALHOST:{}", "mill.example.org"])
def test_a_request_under_a_name_of_the_server_passes(guarded: Guarded, host: str) -> None:
    answer = guarded.get(host=host.format(guarded.port))
    assert answer.json() == {"state": "changed"}
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["x-frame-options"] == "SAMEORIGIN" and answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:{}", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example:{}", "127.0.0.1:{}.evil",
     "127.0.0.1:{}@evil.example", "localhost.:{}", "0.0.0.0:{}", "127.1:{}", "2130706433:{}", ""],
)  # fmt: skip
def test_a_request_under_another_name_is_refused(guarded: Guarded, host: str) -> None:
    before = list(guarded.seen)
    answer = guarded.get(host=host.format(guarded.port))
    assert "mill.example.org" not in answer.text
    assert answer.status_code == 403 and f"127.0.0.1:{guarded.port} or localhost" in answer.text
    assert guarded.seen == before


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "http://127.0.0.1:1", "http://localhost", "http://127.0.0.1:{}.evil.example",
     "http://evil.example:{}", "file://", "http://127.0.0.1:{}/", "ws://127.0.0.1:{}", ""],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "OPTIONS"])
def test_a_page_of_another_origin_is_refused(guarded: Guarded, origin: str, method: str) -> None:
    before, url = list(guarded.seen), f"http://127.0.0.1:{guarded.port}/api"
    answer = httpx.request(method, url, headers={"origin": origin.format(guarded.port)})
    assert answer.status_code == 403 and "only its own pages may" in answer.text
    assert guarded.seen == before


def test_several_hosts_or_origins_in_one_request_are_refused(guarded: Guarded) -> None:
    own = f"127.0.0.1:{guarded.port}"
    before = list(guarded.seen)
    for lines in (
        f"Host: {own}\r\nHost: evil.example\r\n",
        f"Host: {own}\r\nOrigin: http://{own}\r\nOrigin: http://evil.example\r\n",
    ):
        with socket.create_connection(("127.0.0.1", guarded.port)) as connection:
            connection.sendall(f"POST /api HTTP/1.1\r\n{lines}Content-Length: 0\r\n\r\n".encode())
            assert connection.recv(100).startswith((b"HTTP/1.1 400", b"HTTP/1.1 403"))
    assert guarded.seen == before


def test_pages_of_the_server_pass_under_each_of_its_names(guarded: Guarded) -> None:
    for origin in (f"http://localhost:{guarded.port}", f"http://127.0.0.1:{guarded.port}", "https://mill.example.org"):
        assert guarded.get(origin=origin).status_code == 200


def test_what_a_browser_marks_as_foreign_is_refused_without_an_origin_except_a_link(guarded: Guarded) -> None:
    assert guarded.get(sec_fetch_site="cross-site", sec_fetch_mode="no-cors").status_code == 403
    assert guarded.get(sec_fetch_site="same-site", sec_fetch_mode="no-cors").status_code == 403
    assert guarded.get(sec_fetch_site="cross-site", sec_fetch_mode="navigate").status_code == 200
    assert guarded.get(sec_fetch_site="same-origin", sec_fetch_mode="cors").status_code == 200


def test_a_websocket_is_judged_alike(guarded: Guarded) -> None:
    url = f"ws://127.0.0.1:{guarded.port}/ws"
    with connect(url) as websocket:
        assert websocket.protocol
    before = list(guarded.seen)
    for options in ({"origin": "http://evil.example"}, {"additional_headers": {"Origin": "null"}}):
        with pytest.raises(InvalidStatus, match="403"), connect(url, **options):  # type: ignore[arg-type]
            pass
    assert guarded.seen == before


@needs_chromium
def test_a_page_of_another_origin_in_a_real_browser_changes_and_reads_nothing(
    guarded: Guarded, foreign_port: int
) -> None:
    body, before = json.dumps({"pull_steps": []}), list(guarded.seen)
    # A name whose owner points it at this machine once the page is loaded: the browser holds all for one origin.
    rules = f"--host-resolver-rules=MAP rebound.example 127.0.0.1:{guarded.port}, MAP evil.example 127.0.0.1"
    with open_browser(rules) as browser:
        page: Any = browser.new_page()
        for origin in ("evil.example", "localhost", "127.0.0.1"):
            page.goto(f"http://{origin}:{foreign_port}/")
            for name in ("127.0.0.1", "localhost"):
                url = f"http://{name}:{guarded.port}/api"
                tried = attacked(page, url, body, f"ws://{name}:{guarded.port}/ws")
                assert is_harmless(tried), tried
            assert guarded.seen == before
        assert page.goto(f"http://rebound.example:{guarded.port}/").status == 403
        page.goto(f"http://localhost:{guarded.port}/")
        assert page.evaluate("async () => (await fetch('/api', {method: 'POST'})).status") == 200
    assert guarded.seen == [*before, f"POST http://localhost:{guarded.port}"]


@pytest.mark.parametrize(
    "name", ["http://a.example", "a.example/x", "*", "*.example.org", "a b", "a.example:x", "", "."]
)
def test_what_is_no_host_name_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="is not a host name"):
        server_names(8000, [name])


def test_names_of_a_server() -> None:
    own = ("127.0.0.1:8000", "localhost:8000", "[::1]:8000")
    assert server_names(8000) == own
    assert server_names(8000, ["GPU.example.org"]) == (*own, "gpu.example.org:8000", "gpu.example.org")
    assert server_names(8000, ["localhost:18000", "[fe80::1]:9"]) == (*own, "localhost:18000", "[fe80::1]:9")
    assert "localhost" in server_names(80) and "localhost" not in server_names(8000)
    assert is_loopback("localhost:18000") and is_loopback("[::1]") and not is_loopback("localhost.example.org")
