"""A web application and the names of its server → the same application, deaf to what pages of other origins send it.

Any page that a user opens may send requests to this machine's loopback, or point a name of its own at it (DNS
rebinding). Cross-origin rules keep such a page from reading the answer, not from being obeyed: a simple POST is sent
first and judged later. So Host and Origin, which a page cannot falsify, are checked before anything runs.
"""

import re
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from modelmill.tasks.errors import InputError

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_NAME = re.compile(r"(?P<host>[a-z0-9_]([a-z0-9._-]*[a-z0-9_])?|\[[0-9a-f:.]+\])(?P<port>:[0-9]{1,5})?", re.ASCII)
_FROM_ELSEWHERE = {"cross-site", "same-site"}
# A page may not be shown inside a foreign one, where clicks could be borrowed, nor be read as a part of one.
_ADDED = {
    b"x-frame-options": b"SAMEORIGIN",
    b"x-content-type-options": b"nosniff",
    b"cross-origin-resource-policy": b"same-origin",
}


def server_names(port: int, names: Iterable[str] = ()) -> tuple[str, ...]:
    """The values of Host under which a server on this port is reached: those of loopback, and `names`.

    A name without a port stands for itself with this port and without one, as a proxy on port 80 or 443 passes it.

    Raises:
        InputError: what was given is no host name.
    """
    found: dict[str, None] = {}
    for name in (*_LOOPBACK, *names):
        match = _NAME.fullmatch(name.lower())
        if match is None:
            raise InputError(
                f"{name!r} is not a host name; expected NAME or NAME:PORT, such as gpu.example.org or localhost:8080"
            )
        if match["port"]:
            found[match.group()] = None
        else:
            found[f"{match['host']}:{port}"] = None
            if name not in _LOOPBACK or port == 80:
                found[match["host"]] = None
    return tuple(found)


def is_loopback(name: str) -> bool:
    """Whether a name, with a port or without, is one of loopback's."""
    match = _NAME.fullmatch(name.lower())
    return match is not None and match["host"] in _LOOPBACK


class OriginGuard:
    """ASGI middleware: requests and websockets pass if their Host is a name of this server and a browser's Origin, too.

    Answers lose the headers by which an application would open itself to other origins.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str]) -> None:
        self._app = app
        self._names = tuple(names)
        self._origins = {f"{scheme}://{name}" for name in self._names for scheme in ("http", "https")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        reason = self.refusal(Headers(scope=scope), scope.get("method", "GET"))
        if reason is not None:
            await _refuse(scope, receive, send, reason)
            return

        async def closed(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                message = {**message, "headers": _own_origin_only(message.get("headers", ()))}
            await send(message)

        await self._app(scope, receive, closed)

    def refusal(self, headers: Headers, method: str = "GET") -> str | None:
        """Why a request is refused, as a sentence; None if it passes."""
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        if len(hosts) != 1 or hosts[0].lower() not in self._names:
            own = " or ".join(self._names[:2])  # the others are nobody's business who guesses names
            return f"This server is not called {_shown(hosts)}. Open it as {own}, or add a name with --allow-host."
        if not self._origins.issuperset(origin.lower() for origin in origins):
            return f"A page of {_shown(origins)} may not use this server; only its own pages may."
        from_elsewhere = headers.get("sec-fetch-site") in _FROM_ELSEWHERE
        is_link = method == "GET" and headers.get("sec-fetch-mode") == "navigate"
        if from_elsewhere and not origins and not is_link:
            return "A page of another site may link to this server, not use it."
        return None


def _shown(values: list[str]) -> str:
    return ", ".join(ascii(value[:100]) for value in values[:3]) or "nothing"


def _own_origin_only(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    kept = [(name, value) for name, value in headers if not name.lower().startswith(b"access-control-")]
    present = {name.lower() for name, _ in kept}
    return kept + [(name, value) for name, value in _ADDED.items() if name not in present]


async def _refuse(scope: Scope, receive: Receive, send: Send, reason: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": reason[:120]})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *_ADDED.items()]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": reason.encode() + b"\n"})
