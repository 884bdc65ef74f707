"""A question as bytes → an answer as bytes from a child process that may hang, crash or outgrow its memory.

Parsers run native code on hostile input, and no signal reaches native code. In a child, a page that takes too long
or kills its process costs that page only.
"""

import contextlib
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import modelmill

_LENGTH = struct.Struct(">q")
_READ_BYTES = 1 << 20
_GRACE_SECONDS = 10  # after the parent's limit the child ends itself, in case the parent was killed


# What a child that handles the text of strangers may know. A list of what is harmless: one of what is secret
# (AWS_SECRET_ACCESS_KEY, HF_TOKEN, RAY_AUTH_TOKEN_PATH, a password in a URL) would never be complete.
_HARMLESS = {
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TERM", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV",
    "COLUMNS", "CUDA_VISIBLE_DEVICES", "MODELMILL_COMMAND", "MODELMILL_STACK",
}  # fmt: skip
_HARMLESS_KINDS = ("LC_", "PYTHON", "OMP_", "OPENBLAS_", "MKL_", "MALLOC_", "POLARS_", "RAYON_", "NUMBA_", "COV_CORE_")


class CompanionError(Exception):
    """The child gave no answer: `timed_out`, or it died."""

    def __init__(self, message: str, timed_out: bool) -> None:
        super().__init__(message)
        self.timed_out = timed_out


def harmless_environment() -> dict[str, str]:
    """The part of this process's environment that holds no credential, for children that handle strangers' text."""
    return {name: value for name, value in os.environ.items() if name in _HARMLESS or name.startswith(_HARMLESS_KINDS)}


class Companion:
    """One child that runs `serve` in the given module; started when first asked, and again after it failed."""

    def __init__(self, module: str, arguments: tuple[str, ...] = (), environment: Mapping[str, str] | None = None):
        self._command = [sys.executable, "-m", module, *arguments]
        root = str(Path(modelmill.__file__).parents[1])
        self._environment = dict(harmless_environment() if environment is None else environment) | {"PYTHONPATH": root}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Companion":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def ask(self, question: bytes, seconds: float, starting_seconds: float = 180.0) -> bytes:
        """The child's answer within `seconds`, plus the time that a fresh process takes to start.

        Raises:
            CompanionError: the child timed out or died; it has been ended.
        """
        if self._process is None:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=self._environment, bufsize=0
            )
            seconds += starting_seconds
        try:
            return _exchange(self._process, question, seconds)
        except (CompanionError, OSError) as error:
            code = self.close()
            timed_out = isinstance(error, CompanionError) and error.timed_out
            raise CompanionError(str(error) if timed_out else f"exit code {code}", timed_out) from error
        except BaseException:
            self.close()
            raise

    def close(self) -> int | None:
        """End the child; its exit code if it had ended by itself."""
        process, self._process = self._process, None
        if process is None:
            return None
        with contextlib.suppress(OSError):
            process.stdin.close()  # pyright: ignore[reportOptionalMemberAccess]
        code = _code_of_ended(process)
        process.kill()
        process.wait()
        process.stdout.close()  # pyright: ignore[reportOptionalMemberAccess]
        return code


def _code_of_ended(process: subprocess.Popen[bytes]) -> int | None:
    try:
        return process.wait(timeout=0.2)
    except subprocess.TimeoutExpired:
        return None


def _exchange(process: subprocess.Popen[bytes], question: bytes, seconds: float) -> bytes:
    assert process.stdin is not None and process.stdout is not None
    deadline = time.monotonic() + seconds
    _write(process.stdin.fileno(), _LENGTH.pack(len(question)) + question, deadline)
    descriptor = process.stdout.fileno()
    (length,) = _LENGTH.unpack(_read(descriptor, _LENGTH.size, deadline))
    return _read(descriptor, length, deadline)


def _write(descriptor: int, content: bytes, deadline: float) -> None:
    left = memoryview(content)
    while left:
        _, ready, _ = select.select([], [descriptor], [], max(deadline - time.monotonic(), 0))
        if not ready:
            raise CompanionError("takes no question", timed_out=True)
        # A pipe that select calls writable takes this much without blocking.
        left = left[os.write(descriptor, left[: select.PIPE_BUF]) :]


def _read(descriptor: int, size: int, deadline: float) -> bytes:
    parts, missing = [], size
    while missing:
        ready, _, _ = select.select([descriptor], [], [], max(deadline - time.monotonic(), 0))
        if not ready:
            raise CompanionError("no answer in time", timed_out=True)
        part = os.read(descriptor, min(missing, _READ_BYTES))
        if not part:
            raise CompanionError("ended", timed_out=False)
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def serve(answer: Callable[[bytes], bytes], seconds: float, megabytes: int) -> None:
    """The child's side: answer questions until standard input closes, within limits of time and memory.

    Standard streams are replaced by nothing, so that code which prints or reads does no harm.
    """
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    silence = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(silence, descriptor)
    resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while header := questions.read(_LENGTH.size):
        question = questions.read(*_LENGTH.unpack(header))
        signal.alarm(int(seconds) + _GRACE_SECONDS)
        page = answer(question)
        signal.alarm(0)
        answers.write(_LENGTH.pack(len(page)) + page)
        answers.flush()
