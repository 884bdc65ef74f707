"""A connection → its requests, unless it brings none for a while: uvicorn waits for the first one, and for the end of
every request's head, as long as a client likes.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 500
SECONDS = 30.0


class ImpatientProtocol(H11Protocol):
    """uvicorn's protocol, which closes a connection on which nothing is answered and no new request has come."""

    seconds = SECONDS

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def _wait(self, last: Any) -> None:
        self._timer: asyncio.TimerHandle = self.loop.call_later(self.seconds, self._look, last)

    def _look(self, last: Any) -> None:
        """`last`: the request that was the newest when the wait began."""
        is_answered = self.cycle is None or self.cycle.response_complete
        if is_answered and self.cycle is last:
            self.transport.close()
        else:
            self._wait(self.cycle)
