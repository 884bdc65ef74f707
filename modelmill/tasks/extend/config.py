"""What a recipe says under `extend:`: lengths, rotary bases, tokens, data, and the two gates behind each step."""

from typing import Literal

from pydantic import Field, model_validator

from modelmill.tasks.lm.knots import KnotsConfig
from modelmill.tasks.lm.plan import Weights
from modelmill.tasks.lm.settings import NeedleConfig, OptimizerConfig, TrainSettings
from modelmill.tasks.lm.shape import RopeScaling
from modelmill.tasks.stage import Amount, Share, StageConfig


class ExtendStep(StageConfig):
    """One growth of the context."""

    sequence_length: int = Field(gt=0)
    "Tokens per row."
    rope_theta: float | None = Field(default=None, gt=0)
    "Rotary base: raised with the length, so that far positions turn no faster than near ones did before; none: that "
    "of the checkpoint."
    rope_scaling: RopeScaling | None = None
    "Llama 3.1's or NTK-aware change of the frequencies, on top of the base."
    total_tokens: int = Field(gt=0)
    "Tokens to train on."
    knots: KnotsConfig | None = None
    "Untie the Knots, with the share of rows that are tied; none: not used."


class Gates(StageConfig):
    """What must hold before the next step (Llama 3.1 §3.4.2)."""

    short_tolerance: Amount | Literal["noise"] = 0.01
    "Bits per byte at the length before extension may be worse by this share; noise: by two standard errors of the "
    "difference, measured over the held-out windows before and after."
    needle_accuracy: float = Field(default=1.0, ge=0, le=1)
    "Least share of facts found, over all lengths up to the new one and all depths (Llama 3.1: all)."
    depths: tuple[Share, ...] = Field(default=(0.0, 0.25, 0.5, 0.75, 1.0), min_length=1)
    "Where facts are hidden: 0 at the start, 1 at the end."
    num_samples: int = Field(default=8, gt=0)
    "Facts per length and depth."
    ruler_samples: int = Field(default=8, ge=0)
    "Prompts per length of each task like RULER's; measured, no gate. 0: not measured."
    on_failure: Literal["stop", "waive"] = "stop"
    "stop: the line ends with the numbers; waive: go on and record the failed gate."


class LongDocuments(StageConfig):
    """Upsampling of long documents."""

    min_tokens: int = Field(default=512, gt=0)
    "Documents of at least so many tokens …"
    times: int = Field(default=2, gt=0)
    "… come so many times an epoch."


class Config(StageConfig):
    """Context extension, at a constant learning rate [dots.llm1 §4.3] unless `decay_share` is given."""

    seed: int = Field(default=2, ge=0)
    "Seed of the data order and the facts."
    steps: tuple[ExtendStep, ...] = Field(min_length=1)
    "Growing lengths; Llama 3.1 took six."
    learning_rate: float | None = Field(default=None, gt=0)
    "Learning rate; none: that of the checkpoint."
    warmup_share: float = Field(default=0.05, ge=0, lt=1)
    "Share of a step's tokens over which the learning rate rises."
    decay_share: float = Field(default=0.0, ge=0, lt=1)
    "Share of a step's tokens, the last ones, over which the rate falls to nothing: the gates then judge a settled "
    "model. The next step begins with the whole rate."
    batch_tokens: int | None = Field(default=None, gt=0)
    "Tokens per optimiser step; none: two rows of the step."
    mixture: Weights | None = None
    "Weight of each domain; none: that of the tokens."
    long_documents: LongDocuments = LongDocuments()
    "Which documents count as long, and how often they come."
    packing: Literal["best_fit", "stream"] = "best_fit"
    "How documents are laid into rows."
    max_epochs: float = Field(default=4.0, gt=0)
    "Most passes over any domain within a step, long documents counted as often as they come; more is refused."
    needle_share: float = Field(default=0.3, ge=0, lt=1)
    "Share of rows with facts to be found again: a small model learns retrieval from little else."
    needles: NeedleConfig = NeedleConfig()
    "The facts."
    gates: Gates = Gates()
    "What must hold after each step."
    optimizer: OptimizerConfig = OptimizerConfig()
    "AdamW; goes on with the checkpoint's moments."
    train: TrainSettings = TrainSettings(num_pieces=2)
    "Logging, checkpoints, numerics."
    validation_tokens_per_domain: int = Field(default=65_536, gt=0)
    "Held-out tokens of each domain."

    @model_validator(mode="after")
    def _lengths_rise(self) -> "Config":
        lengths = [step.sequence_length for step in self.steps]
        if lengths != sorted(set(lengths)):
            raise ValueError(f"steps have the sequence lengths {lengths}; expected each longer than the one before")
        return self
