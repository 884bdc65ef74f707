"""robots.txt of a host → which of its URLs may be fetched, and how far apart in time."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from protego import Protego

MAX_BYTES = 512 * 1024  # RFC 9309 section 2.5: at least 500 KiB must be read


@dataclass(frozen=True)
class HostRules:
    """What a host allows. `rules` is None where nothing may be fetched, for the reason given."""

    rules: Protego | None
    reason: str = "robots_unreachable"
    detail: str = ""

    def refusal(self, url: str, user_agent: str) -> str:
        """An empty string when the URL may be fetched, otherwise the reason."""
        if self.rules is None:
            return self.reason
        return "" if self.rules.can_fetch(url, user_agent) else "robots"

    def delay(self, user_agent: str) -> float:
        """Seconds between requests that the host asks for (Crawl-delay or Request-rate), 0 when it asks nothing."""
        if self.rules is None:
            return 0.0
        rate = self.rules.request_rate(user_agent)
        return max(float(self.rules.crawl_delay(user_agent) or 0), rate.seconds / rate.requests if rate else 0.0)


def host_rules(status: int | None, body: bytes) -> HostRules:
    """RFC 9309 section 2.3.1: 2xx counts, 4xx allows everything, 5xx and no answer (None) forbid everything."""
    if status is not None and 200 <= status < 300:
        return HostRules(Protego.parse(body[:MAX_BYTES].decode("utf-8", errors="replace")))
    if status is not None and 400 <= status < 500 and status != 429:
        return HostRules(Protego.parse(""))
    return HostRules(None)


class Pace:
    """One host's rate and concurrency: `async with pace:` waits for this request's turn."""

    def __init__(self, interval: float, connections: int) -> None:
        self.interval = interval
        self._connections = asyncio.Semaphore(connections)
        self._next = 0.0

    async def __aenter__(self) -> None:
        await self._connections.acquire()
        clock = asyncio.get_running_loop().time
        turn = max(self._next, clock())
        self._next = turn + self.interval
        try:
            await asyncio.sleep(max(turn - clock(), 0.0))
        except BaseException:
            self._connections.release()
            raise

    async def __aexit__(self, *error: object) -> None:
        self._connections.release()


class Hosts:
    """Rules and pace of every host met, each robots.txt fetched once a crawl process."""

    def __init__(self, read: Callable[[str], Awaitable[HostRules]]) -> None:
        self._read = read
        self._rules: dict[str, asyncio.Task[HostRules]] = {}
        self._paces: dict[str, Pace] = {}

    async def rules(self, origin: str) -> HostRules:
        """The rules of an origin (`https://host`)."""
        if origin not in self._rules:
            self._rules[origin] = asyncio.ensure_future(self._read(origin))
        return await self._rules[origin]

    def pace(self, host: str, interval: float, connections: int) -> Pace:
        """The pace of a host; the longest interval that was asked for holds (its robots.txt is read without one)."""
        pace = self._paces.setdefault(host, Pace(interval, connections))
        pace.interval = max(pace.interval, interval)
        return pace
