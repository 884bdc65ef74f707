"""`mill serve` for real, once: vLLM's API, the stream, the page in a browser, and an end that leaves nothing behind."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from starlette.testclient import TestClient

from modelmill.services.chat_models import ChatSettings, ServedModel
from modelmill.services.chat_page import Access, chat_app
from modelmill.services.engine_proxy import Limits
from modelmill.services.processes import free_port
from modelmill.services.serving import Engine, engine_command, serve, wait_until_ready
from modelmill.tasks.errors import InputError, ResourceError
from tests.chromium import needs_chromium, open_browser
from tests.services.compiler import without_compiler
from tests.tasks.evaluate.tiny import write_model

COMMAND = "import sys; from pathlib import Path; from modelmill.services.serving import serve; "
COMMAND += "serve(Path(sys.argv[1]), port=int(sys.argv[2]))"


@dataclass(frozen=True)
class Server:
    process: subprocess.Popen[bytes]
    url: str
    folder: Path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("release")
    verified = {
        "examples": {"foxes": "the quick?", "dogs": "the lazy?"},
        "by_family": {"foxes": {"accuracy": 0.25}, "dogs": {"accuracy": 0.5}},
    }
    (home / "release.json").write_text(json.dumps({"name": "tiny-talker", "scores": {"verified": verified}}))
    return write_model(home / "model", seed=5)


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = os.environ | without_compiler(folder) | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", COMMAND, str(folder.parent), str(port)], env=environment)
    try:
        wait_for(url + "/health", process)
        children = psutil.Process(process.pid).children(recursive=True)
        sockets = [socket for child in children for socket in child.net_connections() if socket.status == "LISTEN"]
        assert {socket.laddr.ip for socket in sockets} <= {"127.0.0.1"}
        yield Server(process, url, folder)
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert code == 0 and children and not alive
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    """Return when the address answers; the port is taken at once, and answers when the model is ready."""
    while True:
        try:
            assert process.poll() is None
            assert httpx.get(url, timeout=280).status_code == 200
            return
        except httpx.ConnectError:
            time.sleep(0.2)


def test_the_model_is_listed_under_its_release_name(server: Server) -> None:
    (entry,) = httpx.get(server.url + "/v1/models").json()["data"]
    assert entry["id"] == "tiny-talker" and entry["max_model_len"] == 256


def test_metrics_of_the_engine_answer_and_its_other_routes_do_not(server: Server) -> None:
    assert "vllm:num_requests_running" in httpx.get(server.url + "/metrics").text
    for path in ("/tokenize", "/v1/load_lora_adapter", "/version", "/docs", "/v1/responses"):
        assert httpx.get(server.url + path).status_code == httpx.post(server.url + path, json={}).status_code == 404


def test_the_engine_fetches_nothing_that_a_request_names(server: Server) -> None:
    with socket.socket() as bait:
        bait.bind(("127.0.0.1", 0))
        bait.listen()
        bait.settimeout(0.5)
        picture = {"type": "image_url", "image_url": {"url": f"http://127.0.0.1:{bait.getsockname()[1]}/x.png"}}
        body = {"model": "tiny-talker", "messages": [{"role": "user", "content": [picture]}]}
        assert httpx.post(server.url + "/v1/chat/completions", json=body, timeout=30).status_code == 400
        with pytest.raises(TimeoutError):
            bait.accept()


def test_completions_stream(server: Server) -> None:
    # Tokens that come faster than they are sent travel together: only a long reply is sure to take several events.
    body = {"model": "tiny-talker", "prompt": "the quick", "stream": True, "max_tokens": 200, "ignore_eos": True}
    with httpx.stream("POST", server.url + "/v1/completions", json=body, timeout=60) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]" and len(lines) > 2
    assert list(ServedModel(server.url).reply([{"role": "user", "content": "the fox"}], ChatSettings(max_tokens=5)))


def test_a_long_conversation_is_shortened_and_a_long_message_refused(server: Server) -> None:
    model = ServedModel(server.url)
    old = [{"role": role, "content": "the quick brown fox " * 8} for role in ("user", "assistant")] * 3
    assert list(model.reply([*old, {"role": "user", "content": "the fox"}], ChatSettings(max_tokens=5)))
    with pytest.raises(InputError, match="answered 400"):
        list(model.reply([{"role": "user", "content": "the quick brown fox " * 200}], ChatSettings()))


@needs_chromium
def test_the_page_in_a_browser(server: Server) -> None:
    with open_browser() as browser:
        page = browser.new_page(viewport={"width": 1000, "height": 700})
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(server.url)
        page.wait_for_selector(".dot.ready")
        page.fill("#input", "the quick brown fox")
        page.keyboard.press("Enter")
        page.wait_for_selector(".assistant:not(.writing) .note button", timeout=60_000)
        assert page.inner_text(".user .body") == "the quick brown fox"
        assert "per second" in page.inner_text(".assistant .note")
        page.keyboard.press("ArrowUp")
        assert page.input_value("#input") == "the quick brown fox"
        for number in range(4):  # more than the context holds: the beginning is left out, nothing fails
            page.fill("#input", "the quick brown fox " * 6)
            page.keyboard.press("Enter")
            page.wait_for_function(
                "count => document.querySelectorAll('.assistant:not(.writing) .note button').length === count",
                arg=number + 2,
                timeout=60_000,
            )
        assert page.locator(".error").count() == 0
        page.fill("#input", "the")
        page.keyboard.press("Enter")
        page.wait_for_selector(".assistant.writing")
        page.keyboard.press("Escape")
        page.wait_for_selector("text=stopped")
        page.click("#theme")
        assert page.get_attribute("html", "data-theme") == "dark"
        page.click("#reset")
        assert "tiny-talker" in page.inner_text(".empty")
        assert page.locator(".example").all_inner_texts() == ["the lazy?", "the quick?"]
        page.click("text=the quick?")
        page.wait_for_selector(".assistant:not(.writing) .note button", timeout=60_000)
        assert page.inner_text(".user .body") == "the quick?"
        assert errors == []


def test_a_port_in_use_is_told_before_anything_starts(folder: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        started = time.monotonic()
        with pytest.raises(ResourceError, match=rf"cannot listen on 127.0.0.1:{port}.*--port {port + 1}"):
            serve(folder, port=port)
    assert time.monotonic() - started < 5


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no config\.json"):
        serve(tmp_path)


def test_an_engine_that_fails_shows_its_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "vllm.log"
    command = [sys.executable, "-c", "print('no memory for keys'); raise SystemExit(3)"]
    with log.open("wb") as output, subprocess.Popen(command, stdout=output) as process:
        engine = Engine(process, tmp_path / "engine", log)
        with pytest.raises(ResourceError, match=r"exit code 3\)(.|\n)*no memory for keys"):
            wait_until_ready(engine, timeout=60)


def test_a_plain_error_when_the_engine_is_gone(tmp_path: Path) -> None:
    app = chat_app(tmp_path / "engine", ["testserver"], [], Access(), Limits())
    with TestClient(app) as client:
        answer = client.post("/v1/chat/completions", json={})
    assert answer.status_code == 502 and "does not answer" in answer.json()["error"]["message"]


def test_vllm_hears_what_it_cannot_read_from_a_dots_llm1(tmp_path: Path) -> None:
    config: dict[str, object] = {"architectures": ["Dots1ForCausalLM"], "tie_word_embeddings": False}
    (tmp_path / "config.json").write_text(json.dumps(config | {"rope_parameters": {"rope_theta": 1e4}}))
    command = engine_command(tmp_path, "dots", tmp_path / "engine")
    told = json.loads(command[command.index("--hf-overrides") + 1])
    assert told["architectures"] == ["Glm4MoeForCausalLM"] and told["use_qk_norm"]
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    assert "--hf-overrides" not in engine_command(tmp_path, "llama", tmp_path / "engine")
