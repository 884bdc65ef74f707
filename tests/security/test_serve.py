"""`mill serve` attacked: routes, keys, sizes, counts and time, before an engine that notes what reaches it."""

import asyncio
import json
import socket
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from typer.testing import CliRunner

from modelmill.flows.cli import app as mill
from modelmill.services.chat_models import ChatSettings, ServedModel
from modelmill.services.chat_page import Access, chat_app, own_addresses
from modelmill.services.engine_proxy import Limits
from modelmill.services.impatient import ImpatientProtocol
from modelmill.services.serving import private_folder
from modelmill.tasks.errors import InputError
from tests.chromium import needs_chromium, open_browser
from tests.security.foreign import attacked, is_harmless
from tests.servers import listening, serving

KEY = "open-sesame"
LIMITS = Limits(body_mb=0.01, replies=4, seconds=1.5)
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}


@dataclass
class Engine:
    """What stands in vLLM's place: it answers every route, and notes what it was sent."""

    seen: list[tuple[str, str, Any]] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)

    async def answer(self, request: Request) -> Response:
        body = json.loads(await request.body() or b"null")
        self.seen.append((request.method, request.url.path, body))
        assert "authorization" not in request.headers and "cookie" not in request.headers
        content = body["messages"][0]["content"] if body and body.get("messages") else ""
        if content == "slowly":
            return await self.slowly(request)
        if body and body.get("stream"):
            return StreamingResponse(self.pieces(content), media_type="text/event-stream")
        if request.url.path == "/v1/models":
            model = {"id": "tiny", "object": "model", "max_model_len": 64, "root": "/home/me/model", "permission": [{}]}
            return JSONResponse({"object": "list", "data": [model]})
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hello"}}
        reply = {"id": "1", "object": "chat.completion", "created": 1, "model": "tiny", "choices": [choice]}
        return JSONResponse(reply, headers={"Set-Cookie": "a=b", "Access-Control-Allow-Origin": "*"})

    async def slowly(self, request: Request) -> Response:
        while not await request.is_disconnected():
            await asyncio.sleep(0.02)
        self.left.set()
        return JSONResponse({})

    async def pieces(self, content: str) -> AsyncIterator[str]:
        try:
            while True:
                yield f"data: {json.dumps({'choices': [{'delta': {'content': content}}]})}\n\n"
                if content != "endless":
                    break
                await asyncio.sleep(0.05)
            yield "data: [DONE]\n\n"
        finally:
            self.left.set()


@dataclass(frozen=True)
class Served:
    engine: Engine
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def post(self, path: str = "/v1/chat/completions", body: Any = CHAT, **headers: str) -> httpx.Response:
        named = {"Authorization": f"Bearer {KEY}"} | {name.replace("_", "-"): value for name, value in headers.items()}
        if isinstance(body, dict):
            body, named = json.dumps(body), {"Content-Type": "application/json"} | named
        return httpx.post(self.url + path, content=body, headers=named, timeout=20)

    def raw(self, text: str) -> bytes:
        """The beginning of the answer to a request as it is written here."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            connection.sendall(text.encode())
            return connection.recv(20)

    def ask_and_leave(self, content: str) -> None:
        """Send a request, and close the connection when the engine has it."""
        body = json.dumps({"messages": [{"role": "user", "content": content}], "stream": content == "endless"})
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nAuthorization: Bearer {KEY}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        known = len(self.engine.seen)
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            connection.sendall((head + body).encode())
            while len(self.engine.seen) == known:
                time.sleep(0.01)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    engine = Engine()
    methods = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    everything = Starlette(routes=[Route("/{path:path}", engine.answer, methods=methods)])
    with private_folder() as folder, listening() as listener:
        port, access = listener.getsockname()[1], Access(api_key=KEY)
        app = chat_app(folder / "engine", access.names(port), ["why?"], access, LIMITS)
        with serving(everything, folder / "engine"), serving(app, listener):
            yield Served(engine, port)


def openai_client(served: Served, key: str = KEY) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key=key, max_retries=0)


def test_the_openai_client_works_with_the_key_and_not_without(served: Served) -> None:
    with openai_client(served) as client:
        models = [model.to_dict() for model in client.models.list()]
        assert models == [{"id": "tiny", "object": "model", "max_model_len": 64}], "no folder of the machine's"
        reply = client.chat.completions.create(model="tiny", messages=CHAT["messages"])  # type: ignore[call-overload]
        assert reply.choices[0].message.content == "hello"
    with (
        openai_client(served, "guess") as client,
        pytest.raises(openai.AuthenticationError, match="asks for an API key"),
    ):
        client.models.list()


def test_a_connection_that_brings_no_request_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImpatientProtocol, "seconds", 0.3)

    async def slow(request: Request) -> Response:
        await asyncio.sleep(0.8)
        return JSONResponse("done")

    app = Starlette(routes=[Route("/", slow)])
    with listening() as listener, serving(app, listener, http=ImpatientProtocol):
        address = listener.getsockname()
        with socket.create_connection(address, timeout=20) as silent:
            assert silent.recv(1) == b""
        with socket.create_connection(address, timeout=20) as unfinished:
            unfinished.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
            assert unfinished.recv(1) == b""
        with httpx.Client(base_url=f"http://127.0.0.1:{address[1]}") as client:
            assert [client.get("/").json() for _ in range(2)] == ["done", "done"]


@pytest.mark.parametrize(
    "address",
    (
        *("http://[::1", "http://host:abc", "http://\x01", "notaurl", "ftp://x", "", "http://", "http://:80"),
        *("http://a\nb", "http://a..b", "http://127.0.0.1:99999", "http://user:secret@ho st"),
    ),
)
def test_an_address_that_is_none_is_one_sentence_without_its_password(address: str) -> None:
    with pytest.raises(InputError, match="is no address; expected") as found:
        ServedModel(address)
    assert "\n" not in str(found.value) and "secret" not in str(found.value)


def test_mill_chat_takes_the_key_from_the_environment(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILL_API_KEY", KEY)
    assert "".join(ServedModel(served.url).reply([{"role": "user", "content": "hi"}], ChatSettings())) == "hi"
    monkeypatch.setenv("MILL_API_KEY", "guess")
    with pytest.raises(InputError, match="the key in MILL_API_KEY is not its key"):
        ServedModel(served.url)
    monkeypatch.delenv("MILL_API_KEY")
    with pytest.raises(InputError, match="set MILL_API_KEY to its key"):
        ServedModel(served.url)


@pytest.mark.parametrize("header", ["", "guess", "Bearer", "Bearer guess", f"Basic {KEY}", f"Bearer {KEY}x"])
def test_nothing_but_the_page_and_health_answers_without_the_key(served: Served, header: str) -> None:
    before = list(served.engine.seen)
    with httpx.Client(base_url=served.url, headers={"Authorization": header}) as client:
        for path in ("/v1/models", "/metrics", "/examples"):
            answer = client.get(path)
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        for path in ("/v1/chat/completions", "/v1/completions"):
            assert client.post(path, json=CHAT).status_code == 401
        assert served.engine.seen == before
        assert client.get("/health").status_code == 200
        page = client.get("/")
    assert page.status_code == 200 and "default-src 'none'" in page.headers["content-security-policy"]
    assert "tiny" not in page.text and "why?" not in page.text


@pytest.mark.parametrize(
    "path",
    ["/tokenize", "/v1/load_lora_adapter", "/v1/embeddings", "/v1/responses", "/v1/chat/completions/render", "/sleep",
     "/pause", "/collective_rpc", "/inference/v1/generate", "/v1/../tokenize", "/v1/%2e%2e/tokenize",
     "/v1/..%2ftokenize",
     "/v1/%2e%2e%2ftokenize", "/v1/models/../../tokenize", "/v1/models/%2e%2e/%2e%2e/tokenize", "//tokenize",
     "//v1/models", "/v1//models", "/v1/models/", "/v1/models/.", "/v1/models;x", "/v1/models%00", "/v1/models%3f",
     "/V1/models", "/v1\\models", "/health/", "/metrics/", "/metrics/../tokenize", "/docs", "/openapi.json", "/ping",
     "/invocations", "/version", "/load", "/server_info", "/start_profile", "/v1/messages"],
)  # fmt: skip
def test_no_other_path_reaches_the_engine(served: Served, path: str) -> None:
    before = list(served.engine.seen)
    for method in ("GET", "POST"):
        answer = served.raw(
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nAuthorization: Bearer {KEY}\r\n"
            "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
        )
        assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 400")), answer
    assert served.engine.seen == before


def test_other_methods_do_not_reach_the_engine(served: Served) -> None:
    before = list(served.engine.seen)
    for path in ("/v1/models", "/v1/chat/completions", "/health", "/metrics"):
        wrong = {"PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"} | ({"GET"} if "chat" in path else {"POST"})
        for method in wrong:
            answer = httpx.request(method, served.url + path, headers={"Authorization": f"Bearer {KEY}"})
            assert answer.status_code == 405, (method, path)
    assert served.engine.seen == before


def test_what_passes_is_the_checked_body_under_a_path_of_ours(served: Served) -> None:
    assert served.post("/v1/chat/completions?x=/tokenize", CHAT | {"n": 4, "top_k": 3}, cookie="a=b").status_code == 200
    assert served.engine.seen[-1] == ("POST", "/v1/chat/completions", CHAT | {"n": 4, "top_k": 3})
    assert served.post("/v1/%63ompletions", {"prompt": ["a", "b"], "n": 2}).status_code == 200
    assert served.engine.seen[-1][1] == "/v1/completions"
    answer = httpx.get(f"{served.url}/metrics", headers={"Authorization": f"Bearer {KEY}"})
    assert answer.status_code == 200 and "access-control-allow-origin" not in answer.headers
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "change",
    [{"n": 5}, {"best_of": 5}, {"n": "5"}, {"n": 5.0}, {"n": True}, {"n": [5]}, {"n": 10**30}, {"prompt": ["a"] * 5},
     {"prompt": [[1]] * 3, "n": 2}, {"best_of": 3, "prompt": ["a", "b"]}],
)  # fmt: skip
def test_too_many_replies_or_a_count_that_is_none_are_refused(served: Served, change: dict[str, Any]) -> None:
    before = list(served.engine.seen)
    for path in ("/v1/chat/completions", "/v1/completions"):
        answer = served.post(path, CHAT | change)
        assert answer.status_code == 400, answer.text
        assert "--max-replies" in answer.text or "expected a whole number" in answer.text
    assert served.engine.seen == before


def test_of_a_name_given_twice_the_engine_sees_what_was_checked(served: Served) -> None:
    for counts, status in (("1, 'n': 99", 400), ("99, 'n': 1", 200)):
        text = ("{'messages': [], 'n': " + counts + "}").replace("'", '"')
        assert served.post(body=text.encode(), content_type="application/json").status_code == status
    assert served.engine.seen[-1][2] == {"messages": [], "n": 1}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"1",
        b"null",
        b'"x"',
        b'{"n": NaN}',
        b"\xff",
        b"[" * 5000,
        b'{"a":' * 1900,
        b"\x1f\x8b0",
        b'{"a": 1e999}',
        b'{"a": "\\ud800"}',
        b'{"\\udfff": 1}',
    ],
)
def test_a_body_that_is_no_json_object_is_refused_in_a_sentence(served: Served, body: bytes) -> None:
    before = list(served.engine.seen)
    answer = served.post(body=body, content_type="application/json; charset=utf-8")
    assert answer.status_code == 400 and "JSON" in answer.json()["error"]["message"]
    assert served.engine.seen == before


def test_a_body_of_another_kind_is_refused(served: Served) -> None:
    for kind in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "",
        "multipart/form-data; boundary=application/json",
    ):
        assert served.post(body=json.dumps(CHAT).encode(), content_type=kind).status_code == 415


def test_a_long_body_is_refused_with_a_length_and_in_chunks(served: Served) -> None:
    before, long = list(served.engine.seen), b" " * 11_000

    def chunks() -> Iterator[bytes]:
        for _ in range(50):
            yield long

    for body in (long, chunks()):
        answer = served.post(body=body, content_type="application/json")
        assert answer.status_code == 413 and "--max-body-mb" in answer.json()["error"]["message"]
    assert served.engine.seen == before


def test_a_request_has_a_time_limit_in_each_of_its_parts(served: Served) -> None:
    """Sending the body, waiting for the reply, and the reply itself."""
    started = time.monotonic()
    slow = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nAuthorization: Bearer {KEY}\r\n"
    slow += "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    assert served.raw(slow).startswith(b"HTTP/1.1 504")
    served.engine.left.clear()
    answer = served.post(body={"messages": [{"role": "user", "content": "slowly"}]})
    assert answer.status_code == 504 and "--timeout" in answer.json()["error"]["message"]
    assert served.engine.left.wait(5), "the engine goes on for nobody"
    served.engine.left.clear()
    answer = served.post(body={"messages": [{"role": "user", "content": "endless"}], "stream": True})
    last = answer.text.strip().splitlines()[-1]
    assert "took longer than 1.5 s" in json.loads(last.removeprefix("data: "))["error"]["message"]
    assert served.engine.left.wait(5)
    assert time.monotonic() - started < 12


def test_the_engine_is_told_when_a_client_leaves(served: Served) -> None:
    for content in ("slowly", "endless"):
        served.engine.left.clear()
        served.ask_and_leave(content)
        assert served.engine.left.wait(1.2), "before the time limit"


def test_foreign_hosts_and_origins_are_refused_with_the_key_even(served: Served) -> None:
    before = list(served.engine.seen)
    for headers in ({"host": "evil.example"}, {"origin": "http://evil.example"}, {"origin": "null"}):
        assert served.post(**headers).status_code == 403
    assert served.engine.seen == before


@needs_chromium
def test_the_page_asks_for_the_key_once_and_foreign_pages_get_nowhere(served: Served) -> None:
    with open_browser() as browser:
        context = browser.new_context()
        page = context.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(served.url)
        page.fill("#key", "guess")
        page.keyboard.press("Enter")
        page.wait_for_selector("text=The server does not take this key.")
        page.fill("#key", KEY)
        page.keyboard.press("Enter")
        page.wait_for_selector(".dot.ready")
        assert page.inner_text("#name") == page.title() == "tiny"
        page.click("text=why?")
        page.wait_for_selector(".assistant:not(.writing) .note button")
        assert page.inner_text(".assistant .body") == "why?"
        again = context.new_page()
        again.goto(served.url)
        again.wait_for_selector(".dot.ready")
        assert again.is_hidden("#access") and errors == []
        again.goto("data:text/html,<body>")
        before = list(served.engine.seen)
        tried = attacked(again, f"{served.url}/v1/chat/completions", json.dumps(CHAT))
        assert is_harmless(tried), tried
        assert served.engine.seen == before


@pytest.mark.parametrize(
    "access",
    [{"host": "0.0.0.0"}, {"host": "::"}, {"host": "192.0.2.1"}, {"host": "gpu.example.org"},
     {"allowed_hosts": ("gpu.example.org",)}],
)  # fmt: skip
def test_others_are_let_in_with_a_key_alone(access: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"lets other machines in, and there is no API key; set MILL_API_KEY"):
        Access(**access)
    assert Access(**access, api_key=KEY)


def test_this_machine_needs_no_key() -> None:
    for host in ("127.0.0.1", "localhost", "::1", "127.0.0.2"):
        assert Access(host).is_local
    assert "127.0.0.2:8000" in Access("127.0.0.2").names(8000)
    assert Access("0:0:0:0:0:0:0:1").names(8000) == Access("localhost").names(8000)
    assert "localhost:18000" in Access(allowed_hosts=("localhost:18000",)).names(8000)


@pytest.mark.parametrize("key", ["", " ", "a b", "clé", "a\nb"])
def test_a_key_that_fits_into_no_header_is_refused(key: str) -> None:
    with pytest.raises(InputError, match="the API key must be printable ASCII"):
        Access(api_key=key)


def test_a_server_of_all_interfaces_answers_to_its_addresses_and_given_names() -> None:
    names = Access("0.0.0.0", KEY, ("gpu.example.org",)).names(8000)
    assert {f"{address}:8000" for address in own_addresses() if ":" not in address} <= set(names)
    assert "gpu.example.org:8000" in names and "0.0.0.0:8000" not in names


def test_the_command_refuses_before_it_looks_for_a_model() -> None:
    done = CliRunner().invoke(mill, ["serve", "--host", "0.0.0.0"])
    assert isinstance(done.exception, InputError) and "--host 0.0.0.0 lets other machines in" in str(done.exception)


def test_the_engines_socket_is_private_and_its_path_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("long" * 30)))
    with private_folder() as folder:
        assert folder.stat().st_mode & 0o077 == 0
        assert len(str(folder / "engine")) < 107
    assert not folder.exists()
