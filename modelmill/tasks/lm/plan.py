"""Total tokens, batch, sequence length and schedule → what holds at any number of tokens seen. Needs pydantic only."""

from bisect import bisect_right
from collections.abc import Iterator
from typing import Annotated, NamedTuple, TypeVar

from pydantic import AfterValidator, Field, model_validator

from modelmill.tasks.lm.schedule import Schedule
from modelmill.tasks.stage import Amount, Count, Positive, StageConfig

Value = TypeVar("Value")


def _with_some(weights: dict[str, float]) -> dict[str, float]:
    if not any(weights.values()):
        raise ValueError(f"found {weights}; expected a weight above 0 for at least one domain")
    return weights


Weights = Annotated[dict[str, Amount], AfterValidator(_with_some)]
"""Weight of each domain, in any unit; a domain that is left out has none."""
Ramp = tuple[tuple[Count, Positive], ...]
"""Pairs (from this many tokens on, value), rising in tokens: a batch or sequence-length ramp."""
RopeRamp = tuple[tuple[Count, Annotated[float, Field(gt=0)]], ...]
"""Pairs (from this many tokens on, rotary base)."""
MixtureRamp = tuple[tuple[Count, Weights], ...]
"""Pairs (from this many tokens on, weight of each domain)."""


class PlanPoint(NamedTuple):
    """What holds after a number of tokens. None: what the model or the stage began with."""

    learning_rate: float
    batch_tokens: int
    sequence_length: int
    rope_theta: float | None
    mixture: dict[str, float] | None


class StepPoint(NamedTuple):
    """One optimiser step: which rows it takes, its learning rate and, where the plan changes it, its rotary base.

    `tokens` were seen before it; its rows are [first_row, first_row + num_rows) of those of its sequence length.
    """

    step: int
    tokens: int
    learning_rate: float
    sequence_length: int
    num_rows: int
    first_row: int
    rope_theta: float | None = None

    @property
    def num_tokens(self) -> int:
        return self.num_rows * self.sequence_length


class Segment(NamedTuple):
    """Equal steps in a row: `num_steps` of them from `step` on, `tokens` seen and `first_row` rows used before."""

    step: int
    tokens: int
    num_steps: int
    num_rows: int
    sequence_length: int
    first_row: int
    rope_theta: float | None
    mixture: dict[str, float] | None

    @property
    def step_tokens(self) -> int:
        return self.num_rows * self.sequence_length


class Timeline:
    """The segments of a plan: tokens to steps and back without counting through them."""

    def __init__(self, segments: list[Segment]) -> None:
        self.segments = segments
        self._steps = [segment.step for segment in segments]
        self._tokens = [segment.tokens for segment in segments]

    def at_step(self, step: float) -> Segment:
        return self.segments[max(bisect_right(self._steps, step) - 1, 0)]

    def at_tokens(self, tokens: float) -> Segment:
        return self.segments[max(bisect_right(self._tokens, tokens) - 1, 0)]

    def steps(self, tokens: float) -> float:
        """Steps done after so many tokens; the last segment goes on beyond the end."""
        segment = self.at_tokens(tokens)
        return segment.step + (tokens - segment.tokens) / segment.step_tokens

    def tokens(self, steps: float) -> float:
        """Tokens seen after so many steps."""
        segment = self.at_step(steps)
        return segment.tokens + (steps - segment.step) * segment.step_tokens

    def first_step(self, tokens: int) -> int:
        """The first step that begins when so many tokens, or more, were seen."""
        segment = self.at_tokens(tokens)
        return segment.step - (segment.tokens - tokens) // segment.step_tokens


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
    rope_ramp: RopeRamp = ()
    "Changes of the rotary base: (from tokens, base)."
    mixture_ramp: MixtureRamp = ()
    "Changes of the mixture: (from tokens, weight of each domain)."

    @model_validator(mode="after")
    def _fits(self) -> "Plan":
        for name in ("batch_ramp", "sequence_ramp", "rope_ramp", "mixture_ramp"):
            starts = [start for start, _ in getattr(self, name)]
            if starts != sorted(set(starts)) or (starts and starts[0] <= 0):
                raise ValueError(f"{name} begins at {starts} tokens; expected numbers above 0, each above the last")
        for segment in self._segments():
            batch = _ramp_value(self.batch_ramp, segment.tokens, self.batch_tokens)
            if batch < segment.sequence_length:
                raise ValueError(f"a batch of {batch} tokens holds no row of {segment.sequence_length}")
        schedule, warmed = self.schedule, self.schedule.warmup_end(self.timeline())
        if warmed + schedule.decay_tokens > self.total_tokens:
            raise ValueError(
                f"warm-up ({warmed:.0f}) and decay ({schedule.decay_tokens}) together are longer than the "
                f"run ({self.total_tokens} tokens); shorten one of them"
            )
        planned = sum(phase.tokens for phase in schedule.phases)
        if schedule.phases and planned != self.total_tokens:
            raise ValueError(f"the phases have {planned} tokens and the run {self.total_tokens}; expected as many")
        return self

    def at(self, tokens: float) -> PlanPoint:
        """Learning rate, batch, sequence length, rotary base and mixture after `tokens` tokens."""
        return PlanPoint(
            self.schedule.at(tokens, self.total_tokens, self.timeline()),
            _ramp_value(self.batch_ramp, tokens, self.batch_tokens),
            _ramp_value(self.sequence_ramp, tokens, self.sequence_length),
            _ramp_value(self.rope_ramp, tokens, None),
            _ramp_value(self.mixture_ramp, tokens, None),
        )

    def points(self, first_step: int = 0, start_tokens: int = 0, end_tokens: int | None = None) -> Iterator[StepPoint]:
        """The steps in order from `first_step` on that begin within [start_tokens, end_tokens).

        A step's learning rate is that at the middle of its tokens: neither the first step of a warm-up from zero
        nor the last of a decay to zero is wasted.
        """
        timeline = self.timeline()
        first = max(first_step, timeline.first_step(start_tokens))
        end = timeline.first_step(min(self.total_tokens, end_tokens or self.total_tokens))
        return (self._point(step, timeline) for step in range(first, end))

    def timeline(self) -> Timeline:
        """The plan's segments; at most one more than there are changes."""
        return Timeline(list(self._segments()))

    @property
    def num_steps(self) -> int:
        return self.timeline().first_step(self.total_tokens)

    @property
    def num_rows(self) -> dict[int, int]:
        """Rows of each sequence length that the whole run takes."""
        return {
            segment.sequence_length: segment.first_row + segment.num_steps * segment.num_rows
            for segment in self._segments()
        }

    @property
    def mixture_changes(self) -> dict[int, list[tuple[int, dict[str, float]]]]:
        """For each sequence length: (from this row of its rows on, weight of each domain)."""
        changes: dict[int, list[tuple[int, dict[str, float]]]] = {}
        for segment in self._segments():
            if segment.mixture is not None:
                changes.setdefault(segment.sequence_length, []).append((segment.first_row, segment.mixture))
        return changes

    def _point(self, step: int, timeline: Timeline) -> StepPoint:
        segment = timeline.at_step(step)
        done = step - segment.step
        tokens = segment.tokens + done * segment.step_tokens
        return StepPoint(
            step,
            tokens,
            self.schedule.at(tokens + segment.step_tokens / 2, self.total_tokens, timeline),
            segment.sequence_length,
            segment.num_rows,
            segment.first_row + done * segment.num_rows,
            segment.rope_theta,
        )

    def _segments(self) -> Iterator[Segment]:
        ramps = (self.batch_ramp, self.sequence_ramp, self.rope_ramp, self.mixture_ramp)
        changes = sorted({start for ramp in ramps for start, _ in ramp if start < self.total_tokens})
        step = tokens = 0
        used: dict[int, int] = {}
        for change in (*changes, self.total_tokens):
            if change <= tokens:
                continue  # two changes within one step: both hold from the next one on
            length = _ramp_value(self.sequence_ramp, tokens, self.sequence_length)
            num_rows = max(round(_ramp_value(self.batch_ramp, tokens, self.batch_tokens) / length), 1)
            num_steps = -((tokens - change) // (num_rows * length))
            theta = _ramp_value(self.rope_ramp, tokens, None)
            mixture = _ramp_value(self.mixture_ramp, tokens, None)
            first_row = used.get(length, 0)
            yield Segment(step, tokens, num_steps, num_rows, length, first_row, theta, mixture)
            used[length] = first_row + num_steps * num_rows
            step, tokens = step + num_steps, tokens + num_steps * num_rows * length


def _ramp_value(ramp: tuple[tuple[int, Value], ...], tokens: float, first: Value) -> Value:
    return next((value for start, value in reversed(ramp) if tokens >= start), first)
