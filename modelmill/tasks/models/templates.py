"""Chat templates of other people's models → rendered in a process of their own, with limits of time and memory.

transformers renders every template in jinja's sandbox, which keeps it from files and from Python. It does not keep it
from counting to 10^12 or from doubling a text forty times, in the middle of a stage or of a server.
"""

import atexit
import contextlib
import functools
import json
import os
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from modelmill.tasks.errors import InputError

# Longer than the processor time that the process allows itself: other work may be under way on the machine.
SECONDS = 60.0
_START_SECONDS = 180.0
_ANSWER_BYTES = 256_000_000
_PROGRAM = Path(__file__).parent / "template_process.py"
_SHIPPED = Path(__file__).parents[1] / "tokenize" / "data" / "chat_template.jinja"
_PASSED = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "SYSTEMROOT")


class ChatTemplateError(InputError, jinja2.TemplateError):
    """A chat template refuses a conversation, is no template, or asks for too much; also what transformers raises."""


def bound_templates() -> None:
    """From here on transformers renders foreign chat templates in a process with limits."""
    from transformers import tokenization_utils_base

    tokenizers: Any = tokenization_utils_base
    original: Any = tokenizers.render_jinja_template
    if original is render_template:
        return
    _state.original = original
    tokenizers.render_jinja_template = render_template


def render_template(
    conversations: Sequence[Any], chat_template: str | None = None, **options: Any
) -> tuple[list[str], list[Any]]:
    """The text of each conversation, and where its assistant's words are, as transformers' `render_jinja_template`.

    Raises:
        ChatTemplateError: the template refuses a conversation, is no template, or exceeds its limits.
    """
    if chat_template == _shipped_template():
        return _state.original(conversations=conversations, chat_template=chat_template, **options)
    texts, places = [], []
    for conversation in conversations:
        answer = _state.answer({"conversations": [conversation], "chat_template": chat_template} | options)
        texts += answer["text"]
        places += answer["indices"]
    return texts, places


@functools.cache
def _shipped_template() -> str:
    return _SHIPPED.read_text(encoding="utf-8")


class _State:
    """The process that renders, started at the first foreign template, and again after one that had to be ended."""

    original: Any = None

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The process's answer to a request. Raises ChatTemplateError."""
        with self._lock:
            if self._process is None or self._owner != os.getpid():  # a forked process must not share the pipes
                self._start()
            try:
                answer = self._exchange(json.dumps(request).encode() + b"\n", SECONDS)
            except (OSError, EOFError, TimeoutError) as error:
                self.stop()
                raise ChatTemplateError(
                    "the model's chat template was stopped: it takes too long, or too much memory, to write one "
                    "conversation. Give the model another chat_template.jinja."
                ) from error
        if "error" in answer:
            raise ChatTemplateError(f"the model's chat template refuses the conversation: {answer['error']}")
        return answer

    def stop(self) -> None:
        """End the process, whatever it does."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                assert pipe is not None
                pipe.close()

    def _start(self) -> None:
        environment = {name: os.environ[name] for name in _PASSED if name in os.environ}
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(_PROGRAM)],
            env=environment | {"HF_HUB_OFFLINE": "1", "PYTHONUTF8": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._owner = os.getpid()
        self._exchange(b"", _START_SECONDS)

    def _exchange(self, line: bytes, seconds: float) -> dict[str, Any]:
        """Send a line and read one. Raises EOFError where the process has ended, TimeoutError where it takes longer."""
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        process.stdin.write(line)
        process.stdin.flush()
        deadline, received = time.monotonic() + seconds, bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while not received.endswith(b"\n"):
                if not selector.select(deadline - time.monotonic()):
                    raise TimeoutError
                piece = os.read(process.stdout.fileno(), 1 << 16)
                if not piece or len(received) > _ANSWER_BYTES:
                    raise EOFError
                received += piece
        return json.loads(received)


_state = _State()
atexit.register(_state.stop)
