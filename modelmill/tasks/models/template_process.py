"""Conversations and a chat template on standard input → the rendered text; ends when a template asks too much.

Runs by itself under `python -I`, so that nothing of this project or its environment is within a template's reach:

    {"chat_template": ..., "conversations": [...], ...}  one line of JSON for each request
    {"text": [...], "indices": [...]}                    one line for each answer, or {"error": "..."}

The first line of output is `{}`: the process is ready.
"""

import json
import math
import resource
import sys
from typing import Any

CPU_SECONDS = 5
MEMORY_BYTES = 4 << 30
TEXT_CHARACTERS = 16_000_000


def main() -> None:
    """Answer requests until the input ends; the kernel ends the process where one exceeds its limits."""
    from transformers.utils.chat_template_utils import render_jinja_template

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _write({})
    for line in sys.stdin.buffer:
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = math.ceil(used.ru_utime + used.ru_stime) + CPU_SECONDS
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))
        try:
            text, indices = render_jinja_template(**json.loads(line))
            if sum(map(len, text)) > TEXT_CHARACTERS:
                raise ValueError(f"it wrote more than {TEXT_CHARACTERS:,} characters")
            answer = {"text": text, "indices": indices}
        except MemoryError:
            answer = {"error": "it takes too much memory"}
        except Exception as error:  # noqa: BLE001 - it crosses the border of the process as text
            answer = {"error": f"{type(error).__name__}: {error}"[:500]}
        _write(answer)


def _write(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
