"""An engine's unix socket → a web application: a chat page, and the few routes of the engine that others may use."""

import hmac
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from modelmill.services.engine_proxy import Limits, engine_client, forwarded, listed_models, problem
from modelmill.services.origin_guard import OriginGuard, is_loopback, server_names
from modelmill.tasks.errors import InputError

PAGE = Path(__file__).parent / "templates" / "chat.html"
# The page holds its own style and script and talks to its own server only.
CONTENT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Method and path, the same at the engine. Everything else that vLLM serves is not there.
_ROUTES = (
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("GET", "/metrics"),
)


@dataclass(frozen=True)
class Access:
    """Who may use the server: where it listens, the key that a request must carry, further names of the server.

    Raises:
        InputError: others could reach it without a key, or the key fits into no header.
    """

    host: str = "127.0.0.1"
    api_key: str | None = None
    allowed_hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.host:
            raise InputError("--host is empty; expected an address of this machine, such as 127.0.0.1")
        key = self.api_key
        if key is not None and not (key.isascii() and key.isprintable() and " " not in key and key):
            raise InputError("the API key must be printable ASCII characters without spaces; `openssl rand -hex 24`")
        public = [] if self.is_local else [f"--host {self.host}"]
        public += [f"--allow-host {name}" for name in self.allowed_hosts if not is_loopback(name)]
        if public and key is None:
            raise InputError(
                f"{public[0]} lets other machines in, and there is no API key; set MILL_API_KEY (or --api-key), or "
                "serve this machine alone with --host 127.0.0.1"
            )

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches the address."""
        return ipaddress.ip_address(self.host).is_loopback if _is_address(self.host) else self.host == "localhost"

    def names(self, port: int) -> tuple[str, ...]:
        """The values of Host that are answered. Addresses are no names that somebody else could point here."""
        host = str(ipaddress.ip_address(self.host)) if _is_address(self.host) else self.host
        addresses = own_addresses() if host in ("0.0.0.0", "::") else [host]
        bracketed = [f"[{address}]" if ":" in address else address for address in addresses]
        return server_names(port, [*bracketed, *self.allowed_hosts])

    def admits(self, request: Request) -> bool:
        """Whether a request carries the key, if there is one."""
        if self.api_key is None:
            return True
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(key.strip().encode(), self.api_key.encode())


def own_addresses() -> list[str]:
    """The addresses of this machine's interfaces."""
    found = {address.address.partition("%")[0] for each in psutil.net_if_addrs().values() for address in each}
    return sorted(address for address in found if _is_address(address))


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False  # of the link layer
    return True


Handler = Callable[[Request], Awaitable[Response]]


def chat_app(
    engine_socket: Path, names: Sequence[str], examples: Sequence[str], access: Access, limits: Limits
) -> ASGIApp:
    """The application. `names` are values of Host; `examples` are questions that the page offers at the beginning."""
    page = PAGE.read_text(encoding="utf-8")
    client = engine_client(engine_socket)

    async def show_page(request: Request) -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": CONTENT_POLICY})

    async def show_examples(request: Request) -> Response:
        return JSONResponse(list(examples))

    async def show_models(request: Request) -> Response:
        return await listed_models(client)

    def passed(path: str) -> Handler:
        async def pass_on(request: Request) -> Response:
            return await forwarded(client, path, request, limits)

        return pass_on

    def with_key(handler: Handler) -> Handler:
        async def checked(request: Request) -> Response:
            if access.admits(request):
                return await handler(request)
            message = "this server asks for an API key: send `Authorization: Bearer KEY`, with the key of `mill serve`"
            return problem(401, message, "invalid_api_key", **{"WWW-Authenticate": "Bearer"})

        return checked

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with client:
            yield

    app = Starlette(
        routes=[
            Route("/", show_page),
            Route("/examples", with_key(show_examples)),
            Route("/v1/models", with_key(show_models)),
            Route("/health", passed("/health")),
            *(Route(path, with_key(passed(path)), methods=[method]) for method, path in _ROUTES),
        ],
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return OriginGuard(app, names)
