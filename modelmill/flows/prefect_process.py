"""A listening socket, or a port → Prefect's server in this process; writers of its SQLite database take turns."""

import argparse
import os
import signal
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from pathlib import Path

import uvicorn
from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.server.database.dependencies import temporary_database_config
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

from modelmill.flows.prefect_database import prepare_prefect

APP = "prefect.server.api.server:create_app"


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
    """`--fd N` serves a socket that the parent listens on, and ends with the parent; `--port N` serves loopback."""
    parser = argparse.ArgumentParser()
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--fd", type=int)
    where.add_argument("--port", type=int)
    options = parser.parse_args()
    if options.fd is not None:
        threading.Thread(target=_end_with_parent, daemon=True).start()
        place = {"fd": options.fd, "log_level": "error"}
    else:
        place = {"host": "127.0.0.1", "port": options.port, "log_level": "warning"}
    with _queued_database():
        uvicorn.run(APP, factory=True, **place)


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
