"""What a recipe says under `anneal:`: tokens, decay shape, the best data, and the average of the last checkpoints."""

from typing import Literal

from pydantic import Field

from modelmill.tasks.lm.settings import NeedleConfig, OptimizerConfig, TrainSettings
from modelmill.tasks.stage import StageConfig


class Config(StageConfig):
    """The decay of WSD: learning rate to zero (or to final_ratio, for a first of two phases [dots.llm1])."""

    seed: int = 3
    "Seed of the data order."
    total_tokens: int = Field(gt=0)
    "Tokens to train on: about a tenth of pretraining's [MiniCPM]."
    learning_rate: float | None = Field(default=None, gt=0)
    "Learning rate that the decay begins with; none: that of the checkpoint."
    decay_shape: Literal["linear", "sqrt", "exponential"] = "linear"
    "How the learning rate falls."
    final_ratio: float = Field(default=0.0, ge=0, le=1)
    "Learning rate at the end, as a share of that at the beginning."
    batch_tokens: int | None = Field(default=None, gt=0)
    "Tokens per step; none: two rows."
    sequence_length: int | None = Field(default=None, gt=0)
    "Tokens per row; none: that of the checkpoint."
    mixture: dict[str, float] | None = None
    "Weight of each domain, the best data up; none: that of the tokens."
    packing: Literal["best_fit", "stream"] = "best_fit"
    "How documents are laid into rows."
    needle_share: float = Field(default=0.0, ge=0, lt=1)
    "Share of rows with facts to be found again, so that what extend taught stays."
    needles: NeedleConfig = NeedleConfig()
    "The facts."
    average_checkpoints: int = Field(default=5, gt=0)
    "Weight snapshots that are averaged, evenly over the last average_share of the decay [Polyak; Llama 3.1]."
    average_share: float = Field(default=0.2, gt=0, le=1)
    "Part of the decay that the snapshots come from."
    keep: Literal["better", "last", "average"] = "better"
    "Which weights the artifact holds; better: those with the lower held-out loss."
    optimizer: OptimizerConfig = OptimizerConfig()
    "AdamW; goes on with the checkpoint's moments."
    train: TrainSettings = TrainSettings(num_pieces=2)
    "Logging, checkpoints, numerics."
    validation_tokens_per_domain: int = Field(default=65_536, gt=0)
    "Held-out tokens of each domain."
