"""A tokens artifact → held-out loss of AdamW and Muon after equal tokens, by learning rate.

Usage: python -m modelmill.flows.benches.optimizers TOKENS [STEPS]
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch

from modelmill.flows.benches.measured import Measured
from modelmill.tasks.lm.data import RowBatches, document_mixture, open_tokens
from modelmill.tasks.lm.engine import train
from modelmill.tasks.lm.evaluate import validation_metrics, validation_set
from modelmill.tasks.lm.model import build_model
from modelmill.tasks.lm.optim import build_optimizer
from modelmill.tasks.lm.plan import Plan, Schedule
from modelmill.tasks.lm.settings import OptimizerConfig, TrainSettings
from modelmill.tasks.lm.shape import ModelShape

BATCH_TOKENS, LENGTH = 2048, 256
RATES = (3e-3, 1e-2)
Kind = Literal["adamw", "muon"]
KINDS: tuple[Kind, ...] = ("adamw", "muon")


def compare(tokens_folder: Path, num_steps: int = 150) -> Iterator[Measured]:
    """One Llama of 64 wide, three layers, on the same batches."""
    for rate in RATES:
        for kind in KINDS:
            yield _run(tokens_folder, num_steps, kind, rate)


def _run(tokens_folder: Path, num_steps: int, kind: Kind, rate: float) -> Measured:
    tokens = open_tokens(tokens_folder)
    shape = ModelShape(
        vocab_size=tokens.vocab_size,
        hidden_size=64,
        num_layers=3,
        num_heads=4,
        num_kv_heads=4,
        intermediate_size=172,
        max_sequence_length=LENGTH,
    )
    model = build_model(shape, seed=1, special_tokens=tokens.special_tokens)
    total = num_steps * BATCH_TOKENS
    schedule = Schedule(kind="wsd", learning_rate=rate, warmup_tokens=total // 10, decay_tokens=total // 5)
    held_out = validation_set(tokens, sequence_length=LENGTH, max_tokens_per_domain=4096)
    report = train(
        model,
        build_optimizer(model, OptimizerConfig(kind=kind)),
        Plan(total_tokens=total, batch_tokens=BATCH_TOKENS, sequence_length=LENGTH, schedule=schedule),
        RowBatches(document_mixture(tokens, seed=1)),
        TrainSettings(),
        validate=validation_metrics(held_out),
    )
    quality = {"held-out loss": report.last["validation_loss"], "training loss": report.loss}
    return Measured("optimizers", f"{kind}, rate {rate:g}", report.tokens_per_second, "tokens/s (wall)", quality)


def main(arguments: list[str]) -> None:
    """Print the lines of the table."""
    torch.set_num_threads(1)
    for row in compare(Path(arguments[0]), *map(int, arguments[1:])):
        figures = ", ".join(f"{name} {value:.4f}" for name, value in row.quality.items())
        print(f"{row.tool}: {row.rate:,.0f} {row.unit}; {figures}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
