"""Where MLflow keeps runs and files, and a port → MLflow's server, for its own pages and programs only.

`mlflow server` takes any page of this machine for its own, whatever port it comes from, guards its API alone and knows
users only with a database of them. Here the same application stands behind the guard of the other servers, and asks for
the login that MLflow's clients send: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.
"""

import argparse
import os

import uvicorn
from starlette.types import ASGIApp

from modelmill.services.login import MLFLOW_PASSWORD, MLFLOW_USER, LoginGuard
from modelmill.services.origin_guard import OriginGuard, server_names

_NAMES = "MLFLOW_SERVER_ALLOWED_HOSTS"  # MLflow's application reads it too, and each worker builds its own


def main() -> None:
    """Prepare the database, then serve until told to stop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--allow-host", action="append", default=[], metavar="NAME", help="a further name")
    parser.add_argument("--backend-store-uri", default=os.environ.get("MLFLOW_BACKEND_STORE_URI"))
    files = parser.add_mutually_exclusive_group(required=True)
    files.add_argument("--default-artifact-root", help="where clients write and read files by themselves")
    files.add_argument("--artifacts-destination", help="where the server writes and reads files for its clients")
    options = parser.parse_args()
    if not options.backend_store_uri:
        parser.error("give --backend-store-uri or MLFLOW_BACKEND_STORE_URI")
    if not (os.environ.get(MLFLOW_USER) and os.environ.get(MLFLOW_PASSWORD)):
        parser.error(f"set {MLFLOW_USER} and {MLFLOW_PASSWORD}: the login that clients must send")
    os.environ[_NAMES] = ",".join(server_names(options.port, options.allow_host))
    _configure(options)
    place = {"host": options.host, "port": options.port, "workers": options.workers, "log_level": "warning"}
    uvicorn.run("modelmill.services.mlflow_process:guarded_app", factory=True, **place)


def _configure(options: argparse.Namespace) -> None:
    """Set what MLflow's application reads from its environment, as `mlflow server` does, and bring the database up."""
    from mlflow.server import constants
    from mlflow.server.handlers import initialize_backend_stores

    root = options.default_artifact_root or "mlflow-artifacts:/"
    os.environ[constants.BACKEND_STORE_URI_ENV_VAR] = options.backend_store_uri
    os.environ[constants.REGISTRY_STORE_URI_ENV_VAR] = options.backend_store_uri
    os.environ[constants.ARTIFACT_ROOT_ENV_VAR] = root
    if options.artifacts_destination:
        os.environ[constants.ARTIFACTS_DESTINATION_ENV_VAR] = options.artifacts_destination
        os.environ[constants.SERVE_ARTIFACTS_ENV_VAR] = "true"
    initialize_backend_stores(options.backend_store_uri, options.backend_store_uri, root)


def guarded_app() -> ASGIApp:
    """MLflow's application behind the guards; the environment says where its data are, its names and its login."""
    from mlflow.server.fastapi_app import app

    login = f"{os.environ[MLFLOW_USER]}:{os.environ[MLFLOW_PASSWORD]}"
    return OriginGuard(LoginGuard(app, login), os.environ[_NAMES].split(","))


if __name__ == "__main__":
    main()
