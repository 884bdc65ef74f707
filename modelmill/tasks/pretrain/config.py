"""What a recipe says under `pretrain:`. Size, tokens, learning rate and batch come from the scaling fit unless set."""

from typing import Any, Literal

from pydantic import Field, model_validator

from modelmill.tasks.lm.plan import MixtureRamp, Ramp, RopeRamp, Weights
from modelmill.tasks.lm.presets import SHAPES
from modelmill.tasks.lm.schedule import Phase
from modelmill.tasks.lm.settings import InitialisationConfig, OptimizerConfig, TrainSettings
from modelmill.tasks.lm.shape import Experts
from modelmill.tasks.stage import Share, StageConfig

SIZES = ("hidden_size", "num_layers", "num_heads", "num_kv_heads", "intermediate_size")
_OF_A_PRESET = (*SIZES, "head_dim", "experts", "norm_eps", "rope_theta", "tie_embeddings")


class ShapeOverride(StageConfig):
    """Sizes to use in place of the fit's choice: a published model's, or all of them; no half-chosen model is trained.

    The vocabulary is the tokenizer's, and the positions are those that are trained on, with a preset too.
    """

    preset: str | None = None
    "A published shape (`modelmill/tasks/lm/presets.py`), such as llama-3.1-8b; sizes given beside it replace its own."
    hidden_size: int | None = Field(default=None, gt=0)
    "Width of the residual stream."
    num_layers: int | None = Field(default=None, gt=0)
    "Transformer blocks."
    num_heads: int | None = Field(default=None, gt=0)
    "Query heads."
    num_kv_heads: int | None = Field(default=None, gt=0)
    "Key and value heads."
    intermediate_size: int | None = Field(default=None, gt=0)
    "Width of the feed-forward layer."
    head_dim: int | None = Field(default=None, gt=0)
    "Size of one head; none: hidden_size / num_heads."
    experts: Experts | None = None
    "Mixture of experts: the model is a dots.llm1 then, else a Llama."

    @model_validator(mode="after")
    def _whole(self) -> "ShapeOverride":
        if self.preset is not None and self.preset not in SHAPES:
            raise ValueError(f"found the preset {self.preset!r}; expected one of {', '.join(SHAPES)}")
        missing = [name for name in SIZES if getattr(self, name) is None]
        if self.preset is None and missing:
            raise ValueError(f"found no {', '.join(missing)} in shape; expected all sizes, or a preset")
        return self

    def values(self) -> dict[str, Any]:
        """Fields of a ModelShape: the preset's, and over them those given."""
        preset = {name: getattr(SHAPES[self.preset], name) for name in _OF_A_PRESET} if self.preset else {}
        given = {name: getattr(self, name) for name in (*SIZES, "head_dim", "experts")}
        return preset | {name: value for name, value in given.items() if value is not None}


class Config(StageConfig):
    """The stable part of WSD: the decay is left to anneal."""

    seed: int = Field(default=1, ge=0)
    "Seed of weights, data order and mixture."
    shape: ShapeOverride | None = None
    "Model sizes; none: the fit's choice."
    tie_embeddings: bool | None = None
    "One matrix for embedding and head; none: as in the preset, or else in the scaling proxies."
    rope_theta: float | None = Field(default=None, gt=1)
    "Rotary base, which extend may raise; none: the preset's, or else 10,000."
    total_tokens: int | None = Field(default=None, gt=0)
    "Tokens to train on; none: the fit's choice."
    learning_rate: float | None = Field(default=None, gt=0)
    "Peak learning rate; none: the fit's choice."
    batch_tokens: int | None = Field(default=None, gt=0)
    "Tokens per step; none: the fit's choice."
    sequence_length: int | None = Field(default=None, gt=0)
    "Tokens per row; none: that of the scaling proxies."
    batch_ramp: Ramp = ()
    "Batch changes: (from tokens, tokens per step) [Llama 3.1, dots.llm1]."
    sequence_ramp: Ramp = ()
    "Changes of the tokens per row: (from tokens, tokens per row) [Llama 3.1]."
    rope_ramp: RopeRamp = ()
    "Changes of the rotary base: (from tokens, base)."
    schedule: Literal["wsd", "cosine", "constant", "multi_step", "phases"] = "wsd"
    "wsd without decay (anneal does it) or with decay_share; cosine to final_ratio; others: `lm/schedule.py`."
    warmup_tokens: int | None = Field(default=None, ge=0)
    "Tokens over which the learning rate rises; none: as in the scaling proxies."
    warmup_steps: int | None = Field(default=None, gt=0)
    "The same in steps."
    cosine_steps: int | None = Field(default=None, gt=0)
    "cosine only: steps of the whole curve, where it is longer than the run [Llama 3.1]; none: it ends with the run."
    milestones: tuple[tuple[Share, Share], ...] = ((0.8, 0.316), (0.9, 0.1))
    "multi_step only: (share of all tokens, ratio of the peak from there on) [DeepSeek]."
    phases: tuple[Phase, ...] = ()
    "phases only: a chain of learning rates; their tokens are the run's."
    decay_share: float = Field(default=0.0, ge=0, lt=1)
    "Share of the tokens over which a wsd learning rate falls within this stage."
    decay_shape: Literal["linear", "sqrt", "exponential"] = "linear"
    "How it falls: 1 - x, 1 - sqrt(x), or equal ratios in equal times."
    final_ratio: float = Field(default=0.0, ge=0, le=1)
    "Learning rate at the end of a decay or cosine, as a share of the peak."
    forecast_branch: bool = True
    "Where the run itself does not decay: branch off a short decay, measure it against the fit's forecast, drop it."
    forecast_decay_share: float | None = Field(default=None, gt=0, lt=1)
    "Share of the tokens over which that branch decays; none: as in the scaling proxies."
    mixture: Weights | Literal["fit"] | None = None
    "Weight of each domain; fit: the one that scaling found (scaling.mixtures); none: the mixture that curate made."
    mixture_ramp: MixtureRamp = ()
    "Changes of the mixture: (from tokens, weight of each domain)."
    packing: Literal["best_fit", "stream"] = "best_fit"
    "best_fit keeps documents whole where they fit in a row; stream cuts wherever a row ends."
    max_epochs: float = Field(default=4.0, gt=0)
    "Most passes over any domain; more is refused."
    initialisation: InitialisationConfig = InitialisationConfig()
    "How weights begin."
    optimizer: OptimizerConfig = OptimizerConfig()
    "AdamW."
    train: TrainSettings = TrainSettings(num_pieces=2)
    "Logging, checkpoints, numerics."
    validation_tokens_per_domain: int | None = Field(default=None, gt=0)
    "Held-out tokens of each domain that the loss is measured on, before and after; none: as in the scaling proxies."

    @model_validator(mode="after")
    def _one_of_each(self) -> "Config":
        if self.warmup_steps and self.warmup_tokens is not None:
            raise ValueError("found warmup_tokens and warmup_steps; give one of them")
        if self.phases and self.total_tokens is not None:
            raise ValueError("found phases and total_tokens; the run is as long as its phases: leave total_tokens out")
        return self
