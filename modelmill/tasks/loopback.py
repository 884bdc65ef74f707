"""Names of this machine's loopback, and the environment with which PyTorch's and vLLM's processes stay on it."""

import ipaddress
import os
import sys

LOOPBACK = "127.0.0.1"
_INTERFACE = "lo0" if sys.platform == "darwin" else "lo"
# Left alone, all of them listen on the address of the machine's own name.
_ENVIRONMENT = {"GLOO_SOCKET_IFNAME": _INTERFACE, "NCCL_SOCKET_IFNAME": _INTERFACE, "VLLM_HOST_IP": LOOPBACK}


def stay_on_loopback() -> None:
    """Have groups of processes that this process or its children make listen on loopback; a user's own choice wins."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's loopback."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
