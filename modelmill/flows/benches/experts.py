"""A tokens artifact → what balance does to experts at equal tokens, and what grouped products save over a loop.

Usage: python -m modelmill.flows.benches.experts speed | balance TOKENS [STEPS]
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from modelmill.flows.benches.measured import Measured, cpu_seconds
from modelmill.tasks.lm.data import Batch, RowBatches, document_mixture, open_tokens
from modelmill.tasks.lm.engine import next_token_loss, train
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


def speed_shape() -> ModelShape:
    """dots.llm1's 128 routed and 2 shared experts, top-6, at a width for CPUs."""
    experts = Experts(num_routed=128, num_shared=2, top_k=6, intermediate_size=64, first_dense_layers=1)
    return _shape(hidden_size=128, num_layers=3, vocab_size=512, experts=experts)


def _shape(**sizes) -> ModelShape:
    return ModelShape(num_heads=4, num_kv_heads=4, intermediate_size=344, max_sequence_length=LENGTH, **sizes)


def speed(num_tokens: int = 1024) -> list[Measured]:
    """Training tokens a CPU-second, forward and backward, by way of computing the experts."""
    model = build_model(speed_shape(), seed=1)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(512, (num_tokens // LENGTH, LENGTH), generator=generator)
    batch = Batch(tokens, tokens, torch.arange(LENGTH).expand_as(tokens).contiguous())

    def step() -> None:
        next_token_loss(model, batch).backward()
        model.zero_grad()

    found = []
    for way in ("grouped_mm", "eager"):
        model.set_experts_implementation(way)
        found.append(Measured("experts", way, num_tokens / cpu_seconds(step), "tokens/s"))
    return found


def balance(tokens_folder: Path, num_steps: int = 150) -> Iterator[Measured]:
    """MaxVio of the last tenth of the steps, and of held-out tokens, beside the held-out loss, by kind of balance."""
    for name, config in ARMS.items():
        yield _balanced_run(tokens_folder, num_steps, name, config)


def _balanced_run(tokens_folder: Path, num_steps: int, name: str, config: ExpertBalance) -> Measured:
    tokens = open_tokens(tokens_folder)
    experts = Experts(num_routed=32, num_shared=1, top_k=4, intermediate_size=32, first_dense_layers=1)
    shape = _shape(hidden_size=64, num_layers=3, vocab_size=tokens.vocab_size, experts=experts)
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
    rows = speed() if arguments[0] == "speed" else balance(Path(arguments[1]), *map(int, arguments[2:]))
    for row in rows:
        figures = ", ".join(f"{name} {value:.4f}" for name, value in row.quality.items())
        print(f"{row.tool}: {row.rate:,.0f} {row.unit}; {figures}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
