"""What a recipe says under `pretrain:`. Size, tokens, learning rate and batch come from the scaling fit unless set."""

from typing import Literal

from pydantic import Field

from modelmill.tasks.lm.settings import InitialisationConfig, OptimizerConfig, TrainSettings
from modelmill.tasks.stage import StageConfig


class ShapeOverride(StageConfig):
    """Sizes to use in place of the fit's choice; all of them, so that no half-chosen model is trained."""

    hidden_size: int
    "Width of the residual stream."
    num_layers: int
    "Transformer blocks."
    num_heads: int
    "Query heads."
    num_kv_heads: int
    "Key and value heads."
    intermediate_size: int
    "Width of the feed-forward layer."


class Config(StageConfig):
    """The stable part of WSD: the decay is left to anneal."""

    seed: int = 1
    "Seed of weights, data order and mixture."
    shape: ShapeOverride | None = None
    "Model sizes; none: the fit's choice."
    tie_embeddings: bool | None = None
    "One matrix for embedding and head; none: as in the scaling proxies."
    rope_theta: float = 10_000.0
    "Rotary base; extend raises it."
    total_tokens: int | None = Field(default=None, gt=0)
    "Tokens to train on; none: the fit's choice."
    learning_rate: float | None = Field(default=None, gt=0)
    "Peak learning rate; none: the fit's choice."
    batch_tokens: int | None = Field(default=None, gt=0)
    "Tokens per step; none: the fit's choice."
    sequence_length: int | None = Field(default=None, gt=0)
    "Tokens per row; none: that of the scaling proxies."
    schedule: Literal["wsd", "cosine"] = "wsd"
    "wsd without decay (anneal does it) or with decay_share; cosine to final_ratio."
    warmup_tokens: int | None = Field(default=None, ge=0)
    "Tokens over which the learning rate rises; none: as in the scaling proxies."
    decay_share: float = Field(default=0.0, ge=0, lt=1)
    "Share of the tokens over which a wsd learning rate falls within this stage."
    final_ratio: float = Field(default=0.0, ge=0, le=1)
    "Learning rate at the end of a decay or cosine, as a share of the peak."
    forecast_branch: bool = True
    "Where the run itself does not decay: branch off a short decay, measure it against the fit's forecast, drop it."
    forecast_decay_share: float | None = Field(default=None, gt=0, lt=1)
    "Share of the tokens over which that branch decays; none: as in the scaling proxies."
    mixture: dict[str, float] | Literal["fit"] | None = None
    "Weight of each domain; fit: the one that scaling found (scaling.mixtures); none: the mixture that curate made."
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
