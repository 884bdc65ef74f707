"""A pretrain configuration (JSON), tokens and a scaling fit → a checkpoint, with torch and transformers alone.

    python -m torch.distributed.run --nproc-per-node 8 -m modelmill.tasks.lm.launch --config pretrain.json \\
        --tokens TOKENS --fit FIT --workspace WORK --output CHECKPOINT --layout '{"data_shard": 4, "tensor": 2}'

For a machine without Ray, Prefect and MLflow; one process needs no torch.distributed.run. Called again with the same
workspace it continues, on any layout.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from modelmill.tasks.errors import MillError
from modelmill.tasks.files import read_json
from modelmill.tasks.journal import Journal
from modelmill.tasks.lm.data import open_tokens
from modelmill.tasks.lm.parallel.layout import Layout
from modelmill.tasks.pretrain.config import Config
from modelmill.tasks.pretrain.resolve import resolve
from modelmill.tasks.pretrain.stage import result, train_base


class PrintingJournal(Journal):
    """Shows the measured values, too."""

    def metrics(self, step: int, values: dict[str, float]) -> None:
        super().metrics(step, values)
        numbers = ", ".join(f"{name} {value:.6g}" for name, value in values.items() if "/" not in name)
        sys.stdout.write(f"step {step}: {numbers}\n")
        sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Train; returns the exit code. Errors for the user are one line of text, from the first process."""
    chosen = _parser().parse_args(arguments)
    is_first = os.environ.get("RANK", "0") == "0"
    try:
        summary = _train(chosen)
    except MillError as error:
        sys.stderr.write(f"{error}\n" if is_first else "")
        return error.exit_code
    sys.stdout.write(f"{summary}\n" if is_first else "")
    return 0


def _train(chosen: argparse.Namespace) -> str:
    config = Config.model_validate(read_json(chosen.config))
    choice = read_json(chosen.fit / "fit.json")["choice"] if chosen.fit else {}
    everyone = {"data_shard": int(os.environ.get("WORLD_SIZE", "1"))}
    layout = Layout.model_validate(everyone if chosen.layout is None else json.loads(chosen.layout))
    figures = train_base(
        config=config,
        resolved=resolve(config, choice, open_tokens(chosen.tokens)),
        tokens_folder=chosen.tokens,
        workspace=chosen.workspace,
        output=chosen.output,
        journal=PrintingJournal(chosen.workspace / "journal.jsonl"),
        device=chosen.device,
        layout=layout,
    )
    training: dict[str, Any] = read_json(chosen.output / "training.json")
    return result(figures, training).summary


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="modelmill.tasks.lm.launch", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--config", type=Path, required=True, help="what a recipe says under pretrain:, as JSON")
    parser.add_argument("--tokens", type=Path, required=True, help="folder of a tokens artifact")
    parser.add_argument("--fit", type=Path, help="folder of a fit artifact; without it the configuration says all")
    parser.add_argument("--workspace", type=Path, required=True, help="for training states; on every node the same")
    parser.add_argument("--output", type=Path, required=True, help="the checkpoint")
    parser.add_argument("--layout", help="sizes as JSON; default: all processes shard the weights (data_shard)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cuda", "cpu"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
