"""Real HTTP servers for tests: an ASGI application on a loopback port or a unix socket, in a thread."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp


@contextmanager
def listening() -> Iterator[socket.socket]:
    """A socket on a free loopback port, for those who must know the port before the application."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener


@contextmanager
def serving(app: ASGIApp, listener: socket.socket | Path, **options: Any) -> Iterator[None]:
    """The application while this block runs."""
    uds = str(listener) if isinstance(listener, Path) else None
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1, uds=uds, **options))
    sockets = None if isinstance(listener, Path) else [listener]
    thread = threading.Thread(target=server.run, kwargs={"sockets": sockets})
    thread.start()
    while not server.started:
        time.sleep(0.01)
        assert thread.is_alive()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()
