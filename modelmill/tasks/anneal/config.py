"""What a recipe says under `anneal:`: tokens, decay or phases, the best data, and the average of checkpoints."""

from typing import Literal

from pydantic import Field, model_validator

from modelmill.tasks.lm.plan import Weights
from modelmill.tasks.lm.settings import NeedleConfig, OptimizerConfig, TrainSettings
from modelmill.tasks.stage import StageConfig


class AnnealPhase(StageConfig):
    """One stretch of the decay with a mixture of its own; it begins with the rate that the one before ended with."""

    total_tokens: int = Field(gt=0)
    "Tokens to train on."
    final_rate: float = Field(ge=0)
    "Learning rate at its end (dots.llm1: 3e-5, then 1e-5)."
    decay_shape: Literal["linear", "sqrt", "cosine", "exponential"] = "linear"
    "How the learning rate falls."
    mixture: Weights | None = None
    "Weight of each domain; none: that of the phase before, of the stage in the first."


class InstructionData(StageConfig):
    """Problems with reference answers in the chat template, loss on the answers (MiniCPM: such data in the decay)."""

    families: tuple[str, ...] = ("arithmetic", "sorting", "counting", "edits", "formats", "python")
    "Task families whose answers a program verifies (modelmill.tasks.verify.families)."
    difficulty: int = Field(default=1, ge=1)
    "Length of the problems."
    number: int = Field(default=2000, gt=0)
    "Different problems, none of them held out by align or evaluate."


class Config(StageConfig):
    """The decay of WSD: learning rate to zero (or to final_ratio), in one stretch or in phases [dots.llm1]."""

    seed: int = Field(default=3, ge=0)
    "Seed of the data order."
    total_tokens: int | None = Field(default=None, gt=0)
    "Tokens to train on: about a tenth of pretraining's [MiniCPM]; none: those of the phases."
    learning_rate: float | None = Field(default=None, gt=0)
    "Learning rate that the decay begins with; none: that of the checkpoint."
    decay_shape: Literal["linear", "sqrt", "exponential"] = "linear"
    "How the learning rate falls, where there are no phases."
    final_ratio: float = Field(default=0.0, ge=0, le=1)
    "Learning rate at the end, as a share of that at the beginning, where there are no phases."
    phases: tuple[AnnealPhase, ...] = ()
    "Stretches with their own end and mixture, in place of total_tokens."
    batch_tokens: int | None = Field(default=None, gt=0)
    "Tokens per step; none: two rows."
    sequence_length: int | None = Field(default=None, gt=0)
    "Tokens per row; none: that of the checkpoint."
    mixture: Weights | None = None
    "Weight of each domain, the best data up; none: that of the tokens."
    packing: Literal["best_fit", "stream"] = "best_fit"
    "How documents are laid into rows."
    max_epochs: float = Field(default=4.0, gt=0)
    "Most passes over any domain, and over the instructions; more is refused."
    needle_share: float = Field(default=0.0, ge=0, lt=1)
    "Share of rows with facts to be found again, so that what extend taught stays."
    needles: NeedleConfig = NeedleConfig()
    "The facts."
    instruction_share: float = Field(default=0.0, ge=0, lt=1)
    "Share of rows with instructions and answers."
    instructions: InstructionData = InstructionData()
    "The instructions."
    average_checkpoints: int = Field(default=5, gt=0)
    "Weight snapshots that are averaged, evenly over the last average_share of the decay [Polyak; Llama 3.1]."
    average_share: float = Field(default=0.2, gt=0, le=1)
    "Part of the decay (of its last phase) that the snapshots come from."
    keep: Literal["better", "last", "average"] = "better"
    "Which weights the artifact holds; better: those with the lower held-out loss."
    optimizer: OptimizerConfig = OptimizerConfig()
    "AdamW; goes on with the checkpoint's moments."
    train: TrainSettings = TrainSettings(num_pieces=2)
    "Logging, checkpoints, numerics."
    validation_tokens_per_domain: int = Field(default=65_536, gt=0)
    "Held-out tokens of each domain."

    @model_validator(mode="after")
    def _one_length(self) -> "Config":
        if (self.total_tokens is None) != bool(self.phases):
            raise ValueError(
                f"found total_tokens {self.total_tokens} and {len(self.phases)} phases; expected one of the two, since "
                "the phases' tokens add up to the run's"
            )
        if self.needle_share + self.instruction_share >= 1:
            raise ValueError(
                f"needle_share {self.needle_share} and instruction_share {self.instruction_share} leave no rows for "
                "documents; expected less than 1 together"
            )
        return self
