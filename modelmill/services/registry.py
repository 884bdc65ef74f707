"""A release folder → a version of a registered model in MLflow, with an alias, without a copy of its files."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.uri import is_local_uri

ALIAS = "current"


def register_release(
    client: MlflowClient, name: str, folder: Path, run_id: str, digest: str, alias: str = ALIAS
) -> ModelVersion:
    """Register a Hugging Face folder as the newest version of model `name`; the same release is registered once.

    The version's source is `runs:/RUN_ID/model`. Where the run keeps its files in a local folder, the model's files are
    hard-linked there: no copy, and they stay when the artifact store is cleaned. A remote store of runs gets no files;
    the version's tags `path` and `digest` say where the release lies.
    """
    version = _registered(client, name, digest) or _create_version(client, name, folder, run_id, digest)
    client.set_registered_model_alias(name, alias, version.version)
    return version


def _registered(client: MlflowClient, name: str, digest: str) -> ModelVersion | None:
    try:
        client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        client.create_registered_model(name)
        return None
    versions = client.search_model_versions(f"name = '{name}' and tags.digest = '{digest}'", max_results=1)
    return versions[0] if versions else None


def _create_version(client: MlflowClient, name: str, folder: Path, run_id: str, digest: str) -> ModelVersion:
    place = client.get_run(run_id).info.artifact_uri or ""
    if is_local_uri(place):
        link_folder(folder, Path(local_file_uri_to_path(place)) / "model")
    tags: dict[str, Any] = {"digest": digest, "path": str(folder)}
    return client.create_model_version(name, source=f"runs:/{run_id}/model", run_id=run_id, tags=tags)


def link_folder(source: Path, target: Path) -> None:
    """Make `target` hold the same files as `source` by hard links, by copies where they lie on different disks."""
    shutil.copytree(source, target, copy_function=_link, dirs_exist_ok=True)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP):
            raise
        shutil.copy2(source, target)
