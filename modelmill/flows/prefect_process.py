"""A listening socket, or a port → Prefect's server in this process, for its own pages and programs only.

Writers of its SQLite database take turns.
"""

import argparse
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from pathlib import Path

import uvicorn
from prefect.server.api.server import create_app
from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.server.database.dependencies import temporary_database_config
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from modelmill.flows.prefect_database import prepare_prefect
from modelmill.services.origin_guard import OriginGuard, server_names

_MANUALS = {"docs", "redoc", "openapi.json"}


class QueuedSqlite(AioSqliteConfiguration):
    """Prefect's SQLite, where a transaction that may write waits for its turn before it reads.

    Prefect 3.7 begins most of them as readers. SQLite then refuses their first write at once if another has written in
    between; the client hears 503, and tries again after 2, 4, 8, 16 and 32 seconds.
    """

    @asynccontextmanager
    async def begin_transaction(
        self, session: AsyncSession, with_for_update: bool = False
    ) -> AsyncGenerator[AsyncSessionTransaction, None]:
        async with super().begin_transaction(session, with_for_update=True) as transaction:
            yield transaction


def main() -> None:
    """`--fd N` serves a socket that the parent listens on, and ends with the parent; `--port N` serves a port."""
    parser = argparse.ArgumentParser()
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--fd", type=int)
    where.add_argument("--port", type=int)
    parser.add_argument("--host", default="127.0.0.1", help="the address of --port")
    parser.add_argument("--allow-host", action="append", default=[], metavar="NAME", help="a further name")
    options = parser.parse_args()
    if options.fd is not None:
        threading.Thread(target=_end_with_parent, daemon=True).start()
        port = _port_of(options.fd)
        place = {"fd": options.fd, "log_level": "error"}
    else:
        if options.host != "127.0.0.1" and not os.environ.get("PREFECT_SERVER_API_AUTH_STRING"):
            parser.error(f"--host {options.host} lets others in; set their login: PREFECT_SERVER_API_AUTH_STRING")
        port = options.port
        place = {"host": options.host, "port": port, "log_level": "warning"}
    names = server_names(port, options.allow_host)
    with _queued_database():
        uvicorn.run(OriginGuard(without_manuals(create_app()), names), **place)


def without_manuals(app: ASGIApp) -> ASGIApp:
    """The application without its pages about the API: they load scripts from elsewhere, beside a page with a login."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].rstrip("/").rpartition("/")[2] in _MANUALS:
            await PlainTextResponse("Not found", 404)(scope, receive, send)
        else:
            await app(scope, receive, send)

    return guarded


def _port_of(descriptor: int) -> int:
    with socket.socket(fileno=os.dup(descriptor)) as listening:
        return int(listening.getsockname()[1])


def _queued_database() -> AbstractContextManager[None]:
    url = PREFECT_API_DATABASE_CONNECTION_URL.value()
    if not url.startswith("sqlite"):
        return nullcontext()
    if (database := make_url(url).database) not in (None, "", ":memory:"):
        prepare_prefect(Path(str(database)))
    return temporary_database_config(QueuedSqlite(url))


def _end_with_parent() -> None:
    """The pipe from the parent ends when the parent does, however it ends."""
    while os.read(0, 1):  # not sys.stdin: its lock, held here, would abort the interpreter's shutdown
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)
    os._exit(0)


if __name__ == "__main__":
    main()
