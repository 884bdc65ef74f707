"""Where this installation keeps its state, and the settings that the libraries read from the environment."""

import os
import warnings
from pathlib import Path

from modelmill.services.home import prepare_home
from modelmill.services.ray_session import CLOSED_TO_OTHERS
from modelmill.tasks.errors import ResourceError
from modelmill.tasks.files import USER_UMASK

_QUIET = {
    # These libraries phone home unless told not to.
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # A flow without an address of Prefect's API would start a server that obeys any web page.
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
    # What a person should read is the line's own progress, not the libraries' start-up chatter.
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def mill_home() -> Path:
    """The folder that holds all state: MILL_HOME, or `.mill` in the nearest folder at or above here with `configs/`.

    Raises:
        ResourceError: the current folder was removed.
    """
    named = os.environ.get("MILL_HOME", "")
    if named == "~" or named.startswith("~/"):  # a shell leaves it where it is quoted, or read from a file of variables
        named = str(Path(named).expanduser())
    try:
        here = Path.cwd()
    except FileNotFoundError as error:
        if named and Path(named).is_absolute():
            return Path(named).resolve()
        raise ResourceError("the current folder no longer exists; change to another one") from error
    if named:
        return Path(named).resolve()
    for folder in (here, *here.parents):
        if (folder / "configs").is_dir():
            return (folder / ".mill").resolve()
    return here / ".mill"


def prepare_environment(home: Path) -> None:
    """Make the home, and set what Prefect, MLflow, Ray, vLLM and Hugging Face read at import; a user's own values win.

    From here on this process and those that it starts write for the owner of the home alone, or for its group. Files
    that a user names elsewhere get the user's own umask, which is remembered.

    Raises:
        ResourceError: the home cannot be used.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("PREFECT_HOME", str(home / "prefect"))
    os.environ.setdefault("PREFECT_LOCAL_STORAGE_PATH", str(home / "prefect" / "storage"))
    # By default in /tmp, where another user could put code for this one to run, and gone with a command's own folder.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(home / "cache" / "inductor"))
    os.environ["MILL_HOME"] = str(home)
    if os.environ.get("RAY_ADDRESS") in ("", "local"):
        del os.environ["RAY_ADDRESS"]  # what Modelmill does without it
    if "RAY_ADDRESS" not in os.environ:
        os.environ.update(CLOSED_TO_OTHERS)
        os.environ.pop("RAY_AUTH_TOKEN", None)  # of a cluster; a local Ray would take it for its own
    elif "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # a cluster that the user names has its own
    before = os.umask(prepare_home(home))
    os.environ.setdefault(USER_UMASK, f"{before:03o}")
    if os.access(home, os.W_OK):  # a home on a read-only disk can be looked at
        # Prefect warns at import about a home that it cannot create inside a folder that is not there yet.
        try:
            (home / "prefect").mkdir(exist_ok=True)
        except FileExistsError as error:
            raise ResourceError(
                f"{home / 'prefect'} is a file, and Prefect keeps a folder there: move it away"
            ) from error
    warnings.filterwarnings("ignore", category=FutureWarning)
