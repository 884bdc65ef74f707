"""`mill chat`: one reply for what is piped in, a conversation in a real terminal, and the same over a server."""

import io
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import uvicorn
from rich.console import Console
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from transformers import AutoModelForCausalLM, AutoTokenizer

from modelmill.services.chat import chat
from modelmill.services.chat_models import ChatSettings, LocalModel, ServedModel, shortened
from modelmill.tasks.errors import InputError, ResourceError
from tests.tasks.evaluate.tiny import write_model

COMMAND = "from pathlib import Path; import sys; from modelmill.services.chat import chat; chat(Path(sys.argv[1]))"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_model(tmp_path_factory.mktemp("release") / "model", seed=5, max_length=64)


@pytest.fixture(scope="module")
def greedy_reply(folder: Path) -> str:
    """What transformers itself answers."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "the quick"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    room = 64 - prompt["input_ids"].shape[1]
    output = model.generate(**prompt, max_new_tokens=room, do_sample=False)
    return tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)


def test_reply_to_a_pipe(folder: Path, greedy_reply: str) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, str(folder.parent)],
        input=b"the quick\n", capture_output=True, env=environment, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().split() == greedy_reply.split()


def test_conversation_in_a_terminal(folder: Path) -> None:
    leader, follower = pty.openpty()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TERM": "xterm", "COLUMNS": "200"}
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(folder)], stdin=follower, stdout=follower, stderr=follower, env=environment
    )
    os.close(follower)
    shown = read_until(leader, "you ›")
    assert "/reset forgets" in shown
    for line, expected in (("the quick", "model ›"), ("/reset", "begins anew"), ("/what", "unknown command /what")):
        os.write(leader, line.encode() + b"\n")
        assert expected in read_until(leader, "you ›", after=expected)
    os.write(leader, b"/exit\n")
    assert process.wait(30) == 0
    os.close(leader)


def read_until(terminal: int, text: str, after: str = "") -> str:
    """What the terminal shows up to `text` (behind `after`)."""
    shown = b""
    while text not in shown.decode(errors="replace").partition(after)[2] if after else text.encode() not in shown:
        shown += os.read(terminal, 4096)
    return shown.decode(errors="replace")


def test_history_is_shortened_to_the_context(folder: Path) -> None:
    model = LocalModel(folder)
    long = [{"role": role, "content": "the quick brown fox"} for role in ("user", "assistant")] * 8
    pieces = list(model.reply([*long, {"role": "user", "content": "the fox"}], ChatSettings(max_tokens=4)))
    assert "".join(pieces)
    with pytest.raises(InputError, match="send a shorter one"):
        list(model.reply([{"role": "user", "content": "the quick brown fox " * 20}], ChatSettings()))


def test_the_system_message_and_the_last_one_stay() -> None:
    names = [{"role": "system", "content": "s"}]
    names += [{"role": role, "content": f"{role}{turn}"} for turn in range(2) for role in ("user", "assistant")]
    names += [{"role": "user", "content": "last"}]
    contents = [[message["content"] for message in kept] for kept in shortened(names)]
    assert contents[0][1:] == ["user0", "assistant0", "user1", "assistant1", "last"]
    assert contents[1:] == [["s", "user1", "assistant1", "last"], ["s", "last"]]


def test_stopping_a_reply_stops_the_model(folder: Path) -> None:
    reply = LocalModel(folder).reply([{"role": "user", "content": "the"}], ChatSettings())
    next(reply)
    reply.close()  # type: ignore[attr-defined]
    assert threading.active_count() == 1 or all(
        "ThreadPoolExecutor" not in thread.name for thread in threading.enumerate()
    )


@pytest.fixture
def server() -> Iterator[str]:
    """A small server with the wire format of OpenAI's: it repeats the last message, up to three messages."""

    async def models(request: Request) -> Response:
        return JSONResponse({"data": [{"id": "echo"}]})

    async def complete(request: Request) -> Response:
        body = await request.json()
        if len(body["messages"]) > 3:
            message = "This model's maximum context length is 3 messages"
            return JSONResponse({"error": {"message": message}}, status_code=400)
        words = body["messages"][-1]["content"].split(" ")
        lines = [f'data: {{"choices": [{{"delta": {{"content": "{word} "}}}}]}}\n\n' for word in words]
        return StreamingResponse(iter([*lines, "data: [DONE]\n\n"]), media_type="text/event-stream")

    routes = [Route("/v1/models", models), Route("/v1/chat/completions", complete, methods=["POST"])]
    running = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), port=0, log_level="error"))
    thread = threading.Thread(target=running.run)
    thread.start()
    while not running.started:
        pass
    yield f"http://127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}"
    running.should_exit = True
    thread.join()


def test_a_server_is_talked_to_without_loading_a_model(server: str) -> None:
    output = io.StringIO()
    chat(url=server, source=io.StringIO("one two three"), console=Console(file=output))
    assert output.getvalue().split() == ["one", "two", "three"]


def test_a_long_conversation_with_a_server_loses_its_beginning(server: str) -> None:
    model = ServedModel(server + "/v1")
    talk = [{"role": role, "content": "old"} for role in ("user", "assistant")] * 4
    assert "".join(model.reply([*talk, {"role": "user", "content": "new"}], ChatSettings())) == "new "


def test_what_cannot_be_talked_to_is_told_plainly(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ResourceError, match="mill chat` needs no server"):
        chat(url="http://127.0.0.1:9", source=io.StringIO("hi"))
    with pytest.raises(InputError, match="does not exist"):
        chat(tmp_path / "nothing", source=io.StringIO("hi"))
    with pytest.raises(InputError, match="the input is empty"):
        chat(folder, source=io.StringIO("  \n"))
