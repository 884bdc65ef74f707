"""Tokens seen → learning rate: a linear warm-up, then one of five curves. Needs pydantic only."""

import math
from collections.abc import Iterator
from typing import Literal, Protocol

from pydantic import Field, model_validator

from modelmill.tasks.stage import StageConfig

Shape = Literal["constant", "linear", "sqrt", "cosine", "exponential"]


class Clock(Protocol):
    """Converts tokens seen to optimiser steps done (with fractions, within a step) and back."""

    def steps(self, tokens: float) -> float: ...

    def tokens(self, steps: float) -> float: ...


class Phase(StageConfig):
    """One piece of a chain of phases; it begins with the learning rate that the one before it ended with."""

    tokens: int = Field(gt=0)
    "How long it is; the warm-up lies within the first phase."
    shape: Shape = "constant"
    "Way to final_rate: linear; sqrt: 1 - sqrt(x); cosine: half a wave; exponential: equal ratios in equal times."
    final_rate: float | None = Field(default=None, ge=0)
    "Learning rate at its end; none (constant only): that of its beginning."

    @model_validator(mode="after")
    def _has_an_end(self) -> "Phase":
        if (self.shape == "constant") != (self.final_rate is None):
            raise ValueError(
                f"a phase has shape {self.shape} and final_rate {self.final_rate}; expected a final_rate for every "
                "shape but constant, and none for constant"
            )
        if self.shape == "exponential" and self.final_rate == 0:
            raise ValueError("an exponential phase never reaches 0; give it a final_rate above 0")
        return self


class Schedule(StageConfig):
    """The learning rate as a function of tokens seen."""

    kind: Literal["wsd", "cosine", "constant", "multi_step", "phases"]
    "wsd: warm up, stay, decay over the last decay_tokens [MiniCPM]; cosine to final_ratio [Llama 3]; constant after "
    "the warm-up; multi_step: fall to each milestone's ratio [DeepSeek]; phases: a chain of your own [dots.llm1]."
    learning_rate: float = Field(gt=0)
    "Peak learning rate."
    warmup_tokens: int = Field(default=0, ge=0)
    "Tokens of linear warm-up from zero."
    warmup_steps: int = Field(default=0, ge=0)
    "The same in steps, as papers give it; one of the two."
    decay_tokens: int = Field(default=0, ge=0)
    "wsd only: tokens of the decay at the end (about 10 % of all is enough [MiniCPM §4.2])."
    decay_shape: Literal["linear", "sqrt", "exponential"] = "linear"
    "wsd only. linear: 1 - x; sqrt: 1 - sqrt(x); exponential: equal ratios in equal times."
    half_lives: float = Field(default=5.0, gt=0)
    "exponential decay with final_ratio 0 only: halvings over the whole decay, which is then cut off."
    final_ratio: float = Field(default=0.0, ge=0, le=1)
    "wsd and cosine: learning rate at the end, as a share of the peak."
    cosine_steps: int | None = Field(default=None, gt=0)
    "cosine only: steps of the whole curve, warm-up included, as Llama 3.1 gives it; none: it ends with the run."
    milestones: tuple[tuple[float, float], ...] = ((0.8, 0.316), (0.9, 0.1))
    "multi_step only: (share of all tokens, ratio of the peak from there on)."
    phases: tuple[Phase, ...] = ()
    "phases only: the chain; its tokens add up to the run's."

    @model_validator(mode="after")
    def _one_of_each(self) -> "Schedule":
        if self.warmup_tokens and self.warmup_steps:
            raise ValueError(f"found warmup_tokens {self.warmup_tokens} and warmup_steps {self.warmup_steps}; give one")
        if (self.kind == "phases") != bool(self.phases):
            raise ValueError(
                f"found kind {self.kind} with {len(self.phases)} phases; expected phases for that kind only"
            )
        return self

    def warmup_end(self, clock: Clock | None = None) -> float:
        """Tokens after which the warm-up is over; a warm-up in steps needs a clock."""
        return _require(clock).tokens(self.warmup_steps) if self.warmup_steps else self.warmup_tokens

    def at(self, tokens: float, total_tokens: int, clock: Clock | None = None) -> float:
        """Learning rate after `tokens` of `total_tokens` tokens; `clock` is for lengths given in steps."""
        warmed = self.warmup_end(clock)
        if tokens < warmed:
            done = _require(clock).steps(tokens) / self.warmup_steps if self.warmup_steps else tokens / warmed
            return self.learning_rate * done
        if self.kind == "phases":
            return self._chained(tokens)
        if self.kind == "cosine":
            return self.learning_rate * self._cosine(tokens, warmed, total_tokens, clock)
        return self.learning_rate * self._ratio(tokens, total_tokens)

    def _cosine(self, tokens: float, start: float, end: float, clock: Clock | None) -> float:
        if self.cosine_steps:
            clock = _require(clock)
            tokens, start, end = clock.steps(tokens), clock.steps(start), self.cosine_steps
        return between("cosine", (tokens - start) / max(end - start, 1), 1.0, self.final_ratio)

    def _ratio(self, tokens: float, total: int) -> float:
        if self.kind == "multi_step":
            return next((ratio for share, ratio in reversed(self.milestones) if tokens >= share * total), 1.0)
        decay_start = total - self.decay_tokens
        if self.kind == "constant" or tokens <= decay_start or not self.decay_tokens:
            return 1.0
        last = self.final_ratio
        if self.decay_shape == "exponential":
            last = last or 0.5**self.half_lives
        return between(self.decay_shape, (tokens - decay_start) / self.decay_tokens, 1.0, last)

    def _chained(self, tokens: float) -> float:
        for phase, start, first in self._starts():
            last = first if phase.final_rate is None else phase.final_rate
            if tokens < start + phase.tokens or phase is self.phases[-1]:
                return between(phase.shape, (tokens - start) / phase.tokens, first, last)
        raise AssertionError("a schedule of phases has at least one")

    def _starts(self) -> Iterator[tuple[Phase, int, float]]:
        """Each phase with the tokens before it and the learning rate that it begins with."""
        start, rate = 0, self.learning_rate
        for phase in self.phases:
            yield phase, start, rate
            start, rate = start + phase.tokens, rate if phase.final_rate is None else phase.final_rate


def between(shape: Shape, progress: float, first: float, last: float) -> float:
    """The value after a share `progress` (at most all) of the way from `first` to `last`."""
    progress = min(progress, 1.0)
    if shape == "constant":
        return first
    if shape == "exponential":
        return first * (last / first) ** progress
    left = 1 - progress
    if shape == "sqrt":
        left = 1 - math.sqrt(progress)
    if shape == "cosine":
        left = 0.5 * (1 + math.cos(math.pi * progress))
    return last + (first - last) * left


def _require(clock: Clock | None) -> Clock:
    assert clock, "a schedule with lengths in steps is asked through its plan"
    return clock
