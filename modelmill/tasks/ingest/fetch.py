"""One URL → what its host answered, fetched politely: robots.txt, rate, limits, and retries with back-off."""

import asyncio
import email.utils
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt

from modelmill.tasks.ingest.addresses import GuardedBackend, GuardedTransport, RefusedAddressError
from modelmill.tasks.ingest.decode import RejectedError, decoded_content
from modelmill.tasks.ingest.robots import MAX_BYTES, HostRules, Hosts, host_rules
from modelmill.tasks.ingest.sources import CrawlSource
from modelmill.tasks.ingest.urls import resolved_url, url_host

_TEMPORARY = frozenset({429, 500, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_ROBOTS_REDIRECTS = 5  # RFC 9309 section 2.3.1.2


@dataclass
class Exchange:
    """One request and its answer as they went over the wire; `body` is still content-encoded."""

    url: str
    date: datetime
    seconds: float
    address: str
    request: bytes
    http_version: str
    status: int
    phrase: str
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def header(self, name: str) -> str:
        """The first value of a header, or an empty string."""
        wanted = name.lower().encode()
        return next((value.decode("latin-1") for key, value in self.headers if key.lower() == wanted), "")


@dataclass
class Outcome:
    """What became of a URL: an exchange to keep, or a reason; a redirect's target counts as a link."""

    url: str
    reason: str = ""
    detail: str = ""
    redirect: str | None = None
    exchange: Exchange | None = field(default=None, repr=False)


class _TemporaryError(Exception):
    """Worth another attempt; `wait` is what the host asked for in Retry-After, in seconds."""

    def __init__(self, reason: str, detail: str, wait: float = 0.0) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail, self.wait = reason, detail, wait


class Fetcher:
    """Fetches the URLs of one crawl; use it as an async context manager."""

    def __init__(self, source: CrawlSource, page_bytes: int) -> None:
        self._source = source
        self._politeness = source.politeness
        self.page_bytes = page_bytes
        self._slots = asyncio.Semaphore(self._politeness.connections)
        self._hosts = Hosts(self._read_robots)
        backend = GuardedBackend(source.allow_hosts, source.connect_to)
        self._client = httpx.AsyncClient(
            transport=GuardedTransport(backend, self._politeness.connections),
            headers={"User-Agent": _agent(source), "Accept": _accepted(source), "Accept-Encoding": "gzip"},
            timeout=httpx.Timeout(self._politeness.read_seconds, connect=self._politeness.connect_seconds, pool=None),
            follow_redirects=False,
            trust_env=False,  # a proxy would resolve names where their addresses cannot be checked
        )

    async def __aenter__(self) -> "Fetcher":
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._client.aclose()

    async def fetch(self, url: str) -> Outcome:
        """Fetch one normal URL. Never raises for what a host may do; redirects are reported, not followed."""
        rules = await self._hosts.rules(_origin(url))
        if refusal := rules.refusal(url, self._source.user_agent):
            return Outcome(url, refusal, rules.detail)
        delay = rules.delay(self._source.user_agent)
        if delay > self._politeness.longest_wait_seconds:
            return Outcome(url, "crawl_delay", f"{delay:.0f} s between pages")
        try:
            exchange = await self._with_retries(url, delay, self.page_bytes)
        except _TemporaryError as error:
            return Outcome(url, error.reason, error.detail)
        except _PermanentError as error:
            return Outcome(url, error.reason, error.detail)
        return self._judged(exchange)

    def _judged(self, exchange: Exchange) -> Outcome:
        if exchange.status in _REDIRECTS:
            target = resolved_url(exchange.url, exchange.header("location"))
            return Outcome(exchange.url, "redirect", target or "no usable Location", redirect=target)
        if exchange.status != 200:
            return Outcome(exchange.url, "http_status", str(exchange.status))
        return Outcome(exchange.url, exchange=exchange)

    async def _with_retries(self, url: str, delay: float, limit: int) -> Exchange:
        interval = max(delay, 1 / self._politeness.requests_per_second)
        pace = self._hosts.pace(url_host(url), interval, self._politeness.connections_per_host)
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(_TemporaryError),
            stop=stop_after_attempt(self._politeness.attempts),
            wait=self._wait,
            reraise=True,
        )
        async for attempt in retrying:
            with attempt:
                async with self._slots, pace:
                    return await self._attempt(url, limit)
        raise AssertionError("tenacity returns or raises")

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.wait if isinstance(error, _TemporaryError) else 0.0
        backoff = self._politeness.backoff_seconds * 2 ** (state.attempt_number - 1)
        return min(max(asked, backoff), self._politeness.longest_wait_seconds)

    async def _attempt(self, url: str, limit: int) -> Exchange:
        try:
            async with asyncio.timeout(self._politeness.page_seconds):
                return await self._exchange(url, limit)
        except (TimeoutError, httpx.TimeoutException) as error:
            raise _TemporaryError("timeout", type(error).__name__) from error
        except httpx.TransportError as error:
            raise _TemporaryError("connection", f"{type(error).__name__}: {error}") from error
        except RefusedAddressError as error:
            raise _PermanentError("private_address", str(error)) from error

    async def _exchange(self, url: str, limit: int) -> Exchange:
        begun = time.monotonic()
        date = datetime.now(UTC)
        request = self._client.build_request("GET", url)
        response = await self._client.send(request, stream=True)
        try:
            if response.status_code in _TEMPORARY:
                wait = _retry_after(response.headers.get("retry-after", ""), date)
                raise _TemporaryError("http_status", str(response.status_code), wait)
            body = await self._body(response, limit) if response.status_code == 200 else b""
            address = _peer(response)
        finally:
            await response.aclose()
        return Exchange(
            url=url,
            date=date,
            seconds=time.monotonic() - begun,
            address=address,
            request=_request_bytes(request),
            http_version=response.http_version,
            status=response.status_code,
            phrase=response.reason_phrase,
            headers=list(response.headers.raw),
            body=body,
        )

    async def _body(self, response: httpx.Response, limit: int) -> bytes:
        media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        is_robots = response.request.url.path == "/robots.txt"
        if media_type not in self._source.content_types and not is_robots:
            raise _PermanentError("content_type", media_type or "none given")
        declared = response.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > limit:
            raise _PermanentError("too_large", f"{declared} bytes declared, the limit is {limit}")
        parts, size = [], 0
        async for part in response.aiter_raw():
            parts.append(part)
            size += len(part)
            if size > limit and not is_robots:
                raise _PermanentError("too_large", f"more than {limit} bytes")
            if size > limit:
                break
        return b"".join(parts)

    async def _read_robots(self, origin: str) -> HostRules:
        url = f"{origin}/robots.txt"
        for _ in range(_ROBOTS_REDIRECTS + 1):
            try:
                exchange = await self._with_retries(url, 0.0, MAX_BYTES)
            except _PermanentError as error:
                reason = "private_address" if error.reason == "private_address" else "robots_unreachable"
                return HostRules(None, reason, error.detail)
            except _TemporaryError as error:
                return HostRules(None, detail=f"{error.reason} {error.detail}")  # RFC 9309: forbids everything
            if exchange.status not in _REDIRECTS:
                return _rules_of(exchange)
            target = resolved_url(url, exchange.header("location"))
            if target is None:
                break
            url = target
        return host_rules(404, b"")  # RFC 9309: endless redirects count as no robots.txt


class _PermanentError(Exception):
    """No attempt will help."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def _rules_of(exchange: Exchange) -> HostRules:
    try:
        body = decoded_content(exchange.body, exchange.header("content-encoding"), 10 * MAX_BYTES)
    except RejectedError:
        return host_rules(None, b"")
    return host_rules(exchange.status, body)


def _agent(source: CrawlSource) -> str:
    return f"{source.user_agent} (+{source.contact})" if source.contact else source.user_agent


def _accepted(source: CrawlSource) -> str:
    return ",".join([*source.content_types, "*/*;q=0.1"])


def _origin(url: str) -> str:
    parsed = httpx.URL(url)
    return f"{parsed.scheme}://{parsed.netloc.decode('ascii')}"


def _peer(response: httpx.Response) -> str:
    stream = response.extensions.get("network_stream")
    peer = stream.get_extra_info("server_addr") if stream is not None else None
    return str(peer[0]) if peer else ""


def _request_bytes(request: httpx.Request) -> bytes:
    lines = [b"GET " + request.url.raw_path + b" HTTP/1.1", *(b": ".join(pair) for pair in request.headers.raw)]
    return b"\r\n".join([*lines, b"", b""])


def _retry_after(value: str, now: datetime) -> float:
    """Seconds that a Retry-After header asks for: a number, or an HTTP date (RFC 9110 section 10.2.3)."""
    if value.strip().isdecimal():
        return float(value)
    try:
        return max((email.utils.parsedate_to_datetime(value) - now).total_seconds(), 0.0)
    except (TypeError, ValueError):
        return 0.0
