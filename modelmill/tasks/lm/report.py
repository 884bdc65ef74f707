"""What a run of the engine leaves beside its weights."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class TrainReport:
    """What a run leaves beside the weights. `curve`, `first`, `last` are deterministic, seconds are not.

    curve: {step, tokens, loss, learning_rate, grad_norm} averaged over `log_every_steps`, {step, tokens} with the
    figures of a validation, and the fields of each `Spike`. With experts also what `Routers.end_step` returns.
    first, last: validation before and after. loss: that of the last line.
    """

    steps: int
    tokens: int
    loss: float
    curve: list[dict[str, Any]] = field(repr=False)
    first: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    tokens_per_second: float = 0.0
    seconds: float = 0.0
    resumed_at_step: int = 0
