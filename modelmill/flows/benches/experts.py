"""A tokens artifact → what balance does to experts at equal tokens.

Usage: python -m modelmill.flows.benches.experts TOKENS [STEPS]
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from modelmill.flows.benches.measured import Measured
from modelmill.tasks.lm.data import RowBatches, document_mixture, open_tokens
from modelmill.tasks.lm.engine import train
from modelmill.tasks.lm.evaluate import validation_metrics, validation_set
from modelmill.tasks.lm.model import build_model
from modelmill.tasks.lm.moe import expert_loads
from modelmill.tasks.lm.optim import build_optimizer
from modelmill.tasks.lm.parallel.ranks import Ranks
from modelmill.tasks.lm.plan import Plan, Schedule
from modelmill.tasks.lm.settings import ExpertBalance, OptimizerConfig, TrainSettings
from modelmill.tasks.lm.shape import Experts, ModelShape

NO_BALANCE = ExpertBalance(bias_rate=0, sequence_loss=0)
ARMS = {
    "nothing": NO_BALANCE,
    "bias, rate 0.001": ExpertBalance(sequence_loss=0),
    "bias, rate 0.01": ExpertBalance(bias_rate=0.01, sequence_loss=0),
    "bias and loss in a row": ExpertBalance(),
}
BATCH_TOKENS, LENGTH = 2048, 256


def balance(tokens_folder: Path, num_steps: int = 150) -> Iterator[Measured]:
    """MaxVio of the last tenth of the steps, and of held-out tokens, beside the held-out loss, by kind of balance."""
    for name, config in ARMS.items():
        yield _balanced_run(tokens_folder, num_steps, name, config)


def _balanced_run(tokens_folder: Path, num_steps: int, name: str, config: ExpertBalance) -> Measured:
    tokens = open_tokens(tokens_folder)
    experts = Experts(num_routed=32, num_shared=1, top_k=4, intermediate_size=32, first_dense_layers=1)
    shape = ModelShape(
        vocab_size=tokens.vocab_size,
        hidden_size=64,
        num_layers=3,
        num_heads=4,
        num_kv_heads=4,
        intermediate_size=344,
        max_sequence_length=LENGTH,
        experts=experts,
    )
    model = build_model(shape, seed=1, special_tokens=tokens.special_tokens)
    total = num_steps * BATCH_TOKENS
    schedule = Schedule(kind="wsd", learning_rate=3e-3, warmup_tokens=total // 10, decay_tokens=total // 5)
    plan = Plan(total_tokens=total, batch_tokens=BATCH_TOKENS, sequence_length=LENGTH, schedule=schedule)
    held_out = validation_set(tokens, sequence_length=LENGTH, max_tokens_per_domain=4096)
    report = train(
        model,
        build_optimizer(model, OptimizerConfig()),
        plan,
        RowBatches(document_mixture(tokens, seed=1)),
        TrainSettings(balance=config, log_every_steps=max(num_steps // 10, 1)),
        validate=validation_metrics(held_out),
    )
    quality = {
        "MaxVio of training batches": report.curve[-2]["max_violation"],
        "MaxVio of held-out tokens": expert_loads(model, held_out, Ranks())["max_violation"],
        "held-out loss": report.last["validation_loss"],
    }
    return Measured("balance", name, report.tokens_per_second, "tokens/s (wall)", quality)


def main(arguments: list[str]) -> None:
    """Print the lines of one table."""
    torch.set_num_threads(1)
    for row in balance(Path(arguments[0]), *map(int, arguments[1:])):
        figures = ", ".join(f"{name} {value:.4f}" for name, value in row.quality.items())
        print(f"{row.tool}: {row.rate:,.0f} {row.unit}; {figures}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
