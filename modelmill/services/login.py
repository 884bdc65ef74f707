"""A home → the one login of the Prefect and MLflow servers that Modelmill starts for it, how clients send it, and how
MLflow's server asks for it.
"""

import base64
import hmac
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from modelmill.services.secrets import read_secret

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_USER = "mill"
MLFLOW_USER, MLFLOW_PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"


def server_login(home: Path) -> str:
    """What the pages ask for once, and clients send: `mill:` and a random secret of the home."""
    return f"{_USER}:{read_secret(home, 'login')}"


def mlflow_login(home: Path) -> dict[str, str]:
    """The same as the environment variables that MLflow's client reads."""
    return {MLFLOW_USER: _USER, MLFLOW_PASSWORD: read_secret(home, "login")}


def prefect_headers(environment: Mapping[str, str]) -> dict[str, str]:
    """The header of a request to the Prefect API of an environment; none where that has no login."""
    login = environment.get("PREFECT_API_AUTH_STRING")
    return {"Authorization": _basic(login)} if login else {}


def _basic(login: str) -> str:
    return "Basic " + base64.b64encode(login.encode()).decode()


class LoginGuard:
    """ASGI middleware: whatever carries the login as HTTP Basic authentication passes, and so does a question after
    the server's health.
    """

    def __init__(self, app: "ASGIApp", login: str) -> None:
        self._app, self._expected = app, _basic(login).encode()

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] == "lifespan" or scope["path"] == "/health" or self._carries_login(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "no login"})
        else:
            headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"www-authenticate", b'Basic realm="mill up"')]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            text = (
                b"This server asks for the login that `mill up` prints; programs set MLFLOW_TRACKING_USERNAME and "
                b"MLFLOW_TRACKING_PASSWORD.\n"
            )
            await send({"type": "http.response.body", "body": text})

    def _carries_login(self, scope: "Scope") -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        return len(given) == 1 and hmac.compare_digest(given[0], self._expected)
