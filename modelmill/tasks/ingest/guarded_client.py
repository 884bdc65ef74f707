"""An address of a recipe → the answer of its server, over redirects that lead to no host that the recipe leaves out.

Every hop is a request of its own, checked where it connects. Secrets are put into an address here and nowhere else;
httpx's client is not used, since it logs the addresses that it asks for.
"""

import base64
import contextlib
from collections.abc import Iterator
from types import TracebackType

import httpx
from pydantic import Field

from modelmill.tasks.ingest.addresses import GuardedSyncTransport, Reach, RefusedAddressError
from modelmill.tasks.placeholders import completed
from modelmill.tasks.stage import StageConfig

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 10


class Download(StageConfig):
    """How files are fetched from HTTP(S) servers."""

    attempts: int = Field(default=10, ge=1)
    """Without a byte of progress between them; then the stage ends, and goes on there when it is run again."""
    backoff_seconds: float = Field(default=1.0, ge=0)
    """First wait before another attempt; each later one doubles."""
    longest_wait_seconds: float = Field(default=120.0, ge=0)
    """Upper limit of back-off and Retry-After."""
    connect_seconds: float = Field(default=20.0, gt=0)
    read_seconds: float = Field(default=60.0, gt=0)
    """Longest wait for the next bytes."""
    max_gigabytes: float = Field(default=100.0, gt=0)
    """Largest file that is fetched; a server that sends more is not believed."""
    user_agent: str = "modelmill"


class RefusedError(Exception):
    """An answer that no other attempt will make acceptable; the message says why and what to do."""


class GuardedClient:
    """Sends requests without the proxies, the cookies and the passwords that a machine may have set up for others."""

    def __init__(self, settings: Download, reach: Reach) -> None:
        self._headers = {"User-Agent": settings.user_agent, "Accept-Encoding": "identity", "Accept": "*/*"}
        timeout = httpx.Timeout(settings.read_seconds, connect=settings.connect_seconds)
        self._extensions = {"timeout": timeout.as_dict()}
        self._transport = GuardedSyncTransport(reach)

    def __enter__(self) -> "GuardedClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._transport.close()

    @contextlib.contextmanager
    def get(self, address: str, headers: dict[str, str]) -> Iterator[httpx.Response]:
        """The answer to a GET request, redirects followed.

        Raises:
            RefusedError: a redirect leads nowhere or to where the recipe does not allow it.
            InputError: a secret of the address is not there.
            httpx.TransportError: the connection failed.
        """
        url = _parsed(completed(address))
        authorization = _authorization(url)
        first = url
        for _ in range(_MAX_REDIRECTS + 1):
            own = authorization if (url.scheme, url.host, url.port) == (first.scheme, first.host, first.port) else {}
            response = self._send(url, self._headers | headers | own)
            try:
                if response.status_code not in _REDIRECTS:
                    yield response
                    return
                url = _target(url, response.headers.get("location", ""))
            finally:
                response.close()
        raise RefusedError(f"its server redirects more than {_MAX_REDIRECTS} times. Correct the address.")

    def _send(self, url: httpx.URL, headers: dict[str, str]) -> httpx.Response:
        # User name and password go by a header.
        request = httpx.Request("GET", url.copy_with(userinfo=b""), headers=headers, extensions=self._extensions)
        try:
            response = self._transport.handle_request(request)
        except RefusedAddressError as error:
            raise RefusedError(
                f"{error}, a private or reserved address, which only the hosts that the recipe names may have. If it "
                f"is meant, add {error.host} to the source's `allow_hosts`; otherwise correct the address."
            ) from None
        response.request = request
        return response


def _parsed(address: str) -> httpx.URL:
    try:
        url = httpx.URL(address)
    except (httpx.InvalidURL, ValueError, UnicodeError):
        raise RefusedError("it is no valid URL once its secrets are put in. Correct the address.") from None
    return url


def _target(url: httpx.URL, location: str) -> httpx.URL:
    """Where a redirect leads."""
    try:
        target = url.join(location)
    except (httpx.InvalidURL, ValueError, UnicodeError):
        raise RefusedError("its server redirects to what is no URL. Correct the address.") from None
    if target.scheme not in ("http", "https") or not target.host or not location:
        raise RefusedError(
            f"its server redirects to {target.scheme or 'no'}:, and only http and https are followed. "
            "Correct the address."
        )
    return target


def _authorization(url: httpx.URL) -> dict[str, str]:
    if not url.userinfo:
        return {}
    pair = f"{url.username}:{url.password}".encode()
    return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}
