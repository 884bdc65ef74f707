"""A home and a number of cores → a local Ray on loopback that only this home's token opens; or a cluster joined.

A local Ray keeps its files in the command's own temporary folder, and dies with the command. A cluster of RAY_ADDRESS
brings its own addresses, authentication mode and token (RAY_AUTH_MODE, RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH).
"""

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

import psutil

from modelmill.services.scratch import own_folder
from modelmill.services.secrets import secret_file
from modelmill.tasks.errors import ResourceError
from modelmill.tasks.loopback import LOOPBACK, is_loopback

_ATTEMPTS = 3
_ANSWER_SECONDS = 20.0
# A local Ray holds no durable state, and tasks pass paths, not data: a small object store is enough.
_STORE_BYTES = 100_000_000
CLOSED_TO_OTHERS = {
    # Without it Ray listens on all interfaces, and a driver looks for the head at the machine's own address.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    # Its metrics ask for no token, and tell functions and folders. A port that there is none of is how the last two,
    # which have no switch, are not opened: their processes log that and go on.
    "RAY_enable_metrics_collection": "0",
    "AUTOSCALER_METRIC_PORT": "-1",
    "DASHBOARD_METRIC_PORT": "-1",
}


def local_environment(home: Path) -> dict[str, str]:
    """What every process of a local Ray of this home has in its environment, drivers included."""
    return CLOSED_TO_OTHERS | {"RAY_AUTH_TOKEN_PATH": str(secret_file(home, "ray"))}


def use_token_of(home: Path) -> None:
    """Have this process and its children open, or be, a local Ray of this home.

    Ray reads the mode when it is imported and the token once, and this process may have had another home's before.
    """
    from ray._raylet import AuthenticationTokenLoader, Config  # pyright: ignore[reportAttributeAccessIssue]

    os.environ |= local_environment(home)
    os.environ.pop("RAY_AUTH_TOKEN", None)  # of a cluster; a local Ray would take it for its own
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def start_ray(home: Path, num_cpus: int) -> None:
    """Start a local Ray for this process. Under load a start may take Ray too long: it is repeated.

    Raises:
        ResourceError: it did not start; names the folder with its logs.
    """
    use_token_of(home)
    # On a loaded machine its first process takes longer than the 30 s that Ray waits for it.
    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "120")
    folder = own_folder(home)
    options = {
        "num_cpus": num_cpus,
        "include_dashboard": False,
        "object_store_memory": _STORE_BYTES,
        "_node_ip_address": LOOPBACK,
        "_temp_dir": str(folder),
    }
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            # Without `local`, Ray joins whatever cluster was last started by anyone on this machine.
            _init(address="local", **options)
            break
        except Exception as error:  # Ray raises a plain Exception where its start takes too long
            _end_failed_start(folder)
            if attempt == _ATTEMPTS:
                logs = _kept_logs(home, folder)
                raise ResourceError(
                    f"Ray did not start in {_ATTEMPTS} attempts ({_first_line(error)}); its logs are in {logs}. The "
                    "machine may be overloaded or out of memory: try again when it is idle, or use `--compute process`."
                ) from error
    import ray

    assert is_loopback(ray.util.get_node_ip_address()), "CLOSED_TO_OTHERS is in the environment before Ray is imported"


def start_cluster(home: Path, **node: Any) -> Any:
    """A Ray cluster on this machine (`ray.cluster_utils.Cluster`) with one node, and room for more of `add_node`.

    Ray writes the address of such a cluster into a folder where all its programs look for one, if that is there.
    Here it is the command's own.
    """
    from ray.cluster_utils import Cluster

    use_token_of(home)
    folder = own_folder(home)
    os.environ["RAY_TMPDIR"] = str(folder)
    (folder / "ray").mkdir(exist_ok=True)
    place = {"node_ip_address": LOOPBACK, "temp_dir": str(folder)}
    return Cluster(initialize_head=True, head_node_args=node | place)


def join_ray(home: Path, *, of_stack: bool) -> None:
    """Join the cluster of RAY_ADDRESS, which may be that of this home's own stack.

    Raises:
        ResourceError: it does not answer, or refuses this process's token.
    """
    if of_stack:
        use_token_of(home)
    address = os.environ["RAY_ADDRESS"]
    refusal = (
        f"cannot join the Ray cluster at {address} (%s); start it, or unset RAY_ADDRESS: then each command starts a "
        "Ray of its own"
    )
    if "://" not in address and address != "auto":
        _ask_whether_alive(address, refusal)
    try:
        _init()
    except (ConnectionError, RuntimeError, TimeoutError) as error:
        raise ResourceError(refusal % _first_line(error)) from error


def _ask_whether_alive(address: str, refusal: str) -> None:
    """Ray itself asks a cluster that refuses the token again and again for minutes."""
    import grpc
    from ray import exceptions
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated.gcs_service_pb2 import CheckAliveRequest  # pyright: ignore[reportAttributeAccessIssue]
    from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub

    channel: Any = init_grpc_channel(address)
    with channel:
        try:
            stub = NodeInfoGcsServiceStub(channel)
            stub.CheckAlive(CheckAliveRequest(), timeout=_ANSWER_SECONDS, wait_for_ready=True)
        except exceptions.AuthenticationError as error:
            raise ResourceError(
                f"RAY_AUTH_MODE is token, and there is no token for the Ray cluster at {address}; set RAY_AUTH_TOKEN "
                "or RAY_AUTH_TOKEN_PATH, or RAY_AUTH_MODE=disabled for a cluster without authentication"
            ) from error
        except grpc.RpcError as error:
            code: Any = getattr(error, "code", lambda: None)()
            if code == grpc.StatusCode.UNAUTHENTICATED:
                raise ResourceError(
                    f"the Ray cluster at {address} refuses this token; set RAY_AUTH_MODE, and RAY_AUTH_TOKEN or "
                    "RAY_AUTH_TOKEN_PATH, as that cluster has them"
                ) from error
            reason = "no answer" if code == grpc.StatusCode.DEADLINE_EXCEEDED else str(code)
            raise ResourceError(refusal % reason) from error


def _init(**options: Any) -> None:
    import ray

    ray.init(log_to_driver=False, configure_logging=False, **options)


def _end_failed_start(folder: Path) -> None:
    """Ray leaves the processes of a start that failed."""
    import ray

    ray.shutdown()
    started = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if any(str(folder) in word for word in process.cmdline()):
                process.kill()
                started.append(process)
    psutil.wait_procs(started, timeout=10)


def _kept_logs(home: Path, folder: Path) -> Path:
    """The logs of each attempt; the folder itself goes with the command."""
    kept = home / "logs" / "ray"
    shutil.rmtree(kept, ignore_errors=True)
    for number, session in enumerate(sorted(folder.glob("session_2*")), start=1):
        shutil.copytree(session / "logs", kept / f"attempt-{number}", symlinks=True)
    return kept


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
