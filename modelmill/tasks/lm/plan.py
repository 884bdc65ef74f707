"""Total tokens, batch, sequence length and schedule → what holds at any number of tokens seen. Needs pydantic only."""

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

from pydantic import Field, model_validator

from modelmill.tasks.stage import StageConfig

Ramp = tuple[tuple[int, int], ...]
"""Pairs (from this many tokens on, value), rising in tokens: a batch or sequence-length ramp."""


class Schedule(StageConfig):
    """The learning rate as a function of tokens seen."""

    kind: Literal["wsd", "cosine", "constant", "multi_step"]
    "wsd: warm up, stay, decay over the last decay_tokens [MiniCPM]; cosine to final_ratio [Llama 3]; constant after "
    "the warm-up; multi_step: fall to each milestone's ratio [DeepSeek]."
    learning_rate: float = Field(gt=0)
    "Peak learning rate."
    warmup_tokens: int = Field(default=0, ge=0)
    "Tokens of linear warm-up from zero."
    decay_tokens: int = Field(default=0, ge=0)
    "wsd only: tokens of the decay at the end (about 10 % of all is enough [MiniCPM §4.2])."
    decay_shape: Literal["linear", "sqrt", "exponential"] = "linear"
    "wsd only. linear: 1 - x; sqrt: 1 - sqrt(x); exponential: 0.5^(x · half_lives), cut off at the end."
    half_lives: float = Field(default=5.0, gt=0)
    "exponential decay only: halvings over the whole decay."
    final_ratio: float = Field(default=0.0, ge=0, le=1)
    "wsd and cosine: learning rate at the end, as a share of the peak."
    milestones: tuple[tuple[float, float], ...] = ((0.8, 0.316), (0.9, 0.1))
    "multi_step only: (share of all tokens, ratio of the peak from there on)."

    def at(self, tokens: float, total_tokens: int) -> float:
        """Learning rate after `tokens` of `total_tokens` tokens."""
        if tokens < self.warmup_tokens:
            return self.learning_rate * tokens / self.warmup_tokens
        return self.learning_rate * self._ratio(tokens, total_tokens)

    def _ratio(self, tokens: float, total: int) -> float:
        if self.kind == "cosine":
            span = max(total - self.warmup_tokens, 1)
            progress = min((tokens - self.warmup_tokens) / span, 1.0)
            return self.final_ratio + (1 - self.final_ratio) * 0.5 * (1 + math.cos(math.pi * progress))
        if self.kind == "multi_step":
            return next((ratio for share, ratio in reversed(self.milestones) if tokens >= share * total), 1.0)
        decay_start = total - self.decay_tokens
        if self.kind == "constant" or tokens <= decay_start or not self.decay_tokens:
            return 1.0
        remaining = self._decay(min((tokens - decay_start) / self.decay_tokens, 1.0))
        return self.final_ratio + (1 - self.final_ratio) * remaining

    def _decay(self, progress: float) -> float:
        if self.decay_shape == "linear":
            return 1 - progress
        if self.decay_shape == "sqrt":
            return 1 - math.sqrt(progress)
        return 0.5 ** (progress * self.half_lives)


class PlanPoint(NamedTuple):
    """What holds after a number of tokens."""

    learning_rate: float
    batch_tokens: int
    sequence_length: int


class StepPoint(NamedTuple):
    """One optimiser step: which rows it takes and its learning rate.

    `tokens` were seen before it; its rows are [first_row, first_row + num_rows) of those of its sequence length.
    """

    step: int
    tokens: int
    learning_rate: float
    sequence_length: int
    num_rows: int
    first_row: int

    @property
    def num_tokens(self) -> int:
        return self.num_rows * self.sequence_length


class Plan(StageConfig):
    """A run as functions of tokens seen, so that a step never depends on how the run was cut into processes."""

    total_tokens: int = Field(gt=0)
    "Tokens to train on; the last step is whole, so up to one batch more is seen."
    batch_tokens: int = Field(gt=0)
    "Tokens per optimiser step, rounded to whole rows."
    sequence_length: int = Field(gt=0)
    "Tokens per row."
    schedule: Schedule
    "Learning rate."
    batch_ramp: Ramp = ()
    "Batch changes: (from tokens, batch tokens), e.g. Llama 3.1's [[252e6, 8e6], [2.87e12, 16e6]]."
    sequence_ramp: Ramp = ()
    "Sequence-length changes: (from tokens, length)."

    @model_validator(mode="after")
    def _fits(self) -> "Plan":
        schedule = self.schedule
        if schedule.warmup_tokens + schedule.decay_tokens > self.total_tokens:
            raise ValueError(
                f"warm-up ({schedule.warmup_tokens}) and decay ({schedule.decay_tokens}) together are longer than the "
                f"run ({self.total_tokens} tokens); shorten one of them"
            )
        if self.batch_tokens < self.sequence_length:
            raise ValueError(f"a batch of {self.batch_tokens} tokens holds no row of {self.sequence_length}")
        return self

    def at(self, tokens: float) -> PlanPoint:
        """Learning rate, batch and sequence length after `tokens` tokens."""
        return PlanPoint(
            self.schedule.at(tokens, self.total_tokens),
            _ramp_value(self.batch_ramp, tokens, self.batch_tokens),
            _ramp_value(self.sequence_ramp, tokens, self.sequence_length),
        )

    def points(self, first_step: int = 0, start_tokens: int = 0, end_tokens: int | None = None) -> Iterator[StepPoint]:
        """The steps in order from `first_step` on that begin within [start_tokens, end_tokens).

        A step's learning rate is that at the middle of its tokens: neither the first step of a warm-up from zero
        nor the last of a decay to zero is wasted.
        """
        tokens = step = first_row = length = 0
        while tokens < min(self.total_tokens, end_tokens or self.total_tokens):
            point = self.at(tokens)
            if point.sequence_length != length:
                length, first_row = point.sequence_length, 0
            num_rows = max(point.batch_tokens // length, 1)
            if step >= first_step and tokens >= start_tokens:
                rate = self.schedule.at(tokens + num_rows * length / 2, self.total_tokens)
                yield StepPoint(step, tokens, rate, length, num_rows, first_row)
            tokens += num_rows * length
            first_row += num_rows
            step += 1

    @property
    def num_steps(self) -> int:
        return sum(1 for _ in self.points())


def _ramp_value(ramp: Ramp, tokens: float, first: int) -> int:
    return next((value for start, value in reversed(ramp) if tokens >= start), first)
