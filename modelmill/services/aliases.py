"""A home → the releases that an alias of MLflow's model registry refers to."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from modelmill.services.stack import stack_environment
from modelmill.tasks.errors import ResourceError

if TYPE_CHECKING:
    from mlflow import MlflowClient


def aliased_releases(home: Path) -> dict[str, str]:
    """Digest → the alias that refers to it, of all models in the registry that runs of this home use.

    Raises:
        ResourceError: the registry cannot be asked.
    """
    server = os.environ.get("MLFLOW_TRACKING_URI") or stack_environment(home).get("MLFLOW_TRACKING_URI")
    if server is None and not (home / "mlflow.db").exists():
        return {}
    # Imported here: it takes seconds, and a home without runs has no registry.
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    from modelmill.services.tracking import require_server, tracking_uri

    uri = tracking_uri(home)
    if uri.startswith("http"):
        require_server(uri)
    try:
        client = MlflowClient(uri, uri)
        return dict(_aliased(client))
    except (MlflowException, SQLAlchemyError) as error:
        raise ResourceError(
            f"MLflow's registry at {uri} cannot be read ({str(error).splitlines()[0]}), so which releases its aliases "
            "refer to is unknown and nothing was removed. Restore it from a backup; or move it away: the next run "
            "makes a new one, and aliases of releases made before are gone."
        ) from error


def _aliased(client: "MlflowClient") -> Iterator[tuple[str, str]]:
    token = None
    while True:
        page = client.search_registered_models(max_results=100, page_token=token)
        for model in page:
            for alias in model.aliases:
                version = client.get_model_version_by_alias(model.name, alias)
                if digest := version.tags.get("digest"):
                    yield digest, f"alias {alias} of model {model.name} in MLflow's registry"
        token = page.token
        if not token:
            return
