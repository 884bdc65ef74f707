"""A home → the login of the Prefect servers that Modelmill starts for it, and the header that carries it."""

import base64
from collections.abc import Mapping
from pathlib import Path

from modelmill.services.secrets import read_secret


def prefect_login(home: Path) -> str:
    """What Prefect's page asks for once, and clients send: `mill:` and a random secret of the home."""
    return "mill:" + read_secret(home, "prefect")


def login_headers(environment: Mapping[str, str]) -> dict[str, str]:
    """The header of a request to the Prefect API of an environment; none where that has no login."""
    login = environment.get("PREFECT_API_AUTH_STRING")
    return {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()} if login else {}
