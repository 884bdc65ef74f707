"""A model's shape (sizes of a Llama or dots.llm1) → parameter counts and FLOPs per token. Needs pydantic only."""

from typing import Literal

from pydantic import Field, model_validator

from modelmill.tasks.stage import StageConfig


class Experts(StageConfig):
    """The mixture of experts of a dots.llm1 (arXiv:2506.05767 §2): sigmoid router, shared and routed experts."""

    num_routed: int = Field(gt=0)
    "Experts that the router chooses from."
    num_shared: int = Field(default=2, ge=0)
    "Experts that every token passes."
    top_k: int = Field(default=6, gt=0)
    "Routed experts per token."
    intermediate_size: int = Field(gt=0)
    "Width of one expert's feed-forward layer."
    first_dense_layers: int = Field(default=1, ge=0)
    "Layers at the bottom with a plain feed-forward layer."
    routed_scaling_factor: float = Field(default=2.5, gt=0)
    "Factor on the sum of the chosen experts."


class RopeScaling(StageConfig):
    """A change of the rotary frequencies, on top of their base, so that far positions look like known ones."""

    kind: Literal["llama3", "ntk"]
    "llama3: waves longer than original_length / low_frequency_factor are slowed by `factor`, those shorter than "
    "original_length / high_frequency_factor are kept, between them it passes over (code of Llama 3.1). ntk: the base "
    "times factor^(d / (d - 2)) for heads of size d, so that only the slowest wave is slowed by all of it."
    factor: float = Field(gt=1)
    "How much longer the context becomes (Llama 3.1: 8)."
    low_frequency_factor: float = Field(default=1.0, gt=0)
    "llama3 only."
    high_frequency_factor: float = Field(default=4.0, gt=0)
    "llama3 only."
    original_length: int = Field(default=8192, gt=0)
    "llama3 only: the context that the model was trained with before."


class ModelShape(StageConfig):
    """Sizes of one model. `experts` given: a dots.llm1; not given: a Llama."""

    vocab_size: int
    "Rows of the embedding: the tokenizer's vocabulary."
    hidden_size: int
    "Width of the residual stream."
    num_layers: int
    "Transformer blocks."
    num_heads: int
    "Query heads."
    num_kv_heads: int
    "Key and value heads (grouped-query attention where fewer than num_heads)."
    intermediate_size: int
    "Width of the SwiGLU feed-forward layer."
    head_dim: int | None = None
    "Size of one head; none: hidden_size / num_heads."
    max_sequence_length: int
    "Positions that the exported configuration allows."
    rope_theta: float = 10_000.0
    "Base of the rotary position embedding."
    rope_scaling: RopeScaling | None = None
    "Change of the rotary frequencies; none: those of the base."
    tie_embeddings: bool = True
    "One matrix for embedding and output head (small models)."
    norm_eps: float = 1e-5
    "Epsilon of RMSNorm."
    experts: Experts | None = None
    "Mixture of experts; absent in a dense model."

    @model_validator(mode="after")
    def _heads_fit(self) -> "ModelShape":
        odd = self.head_dim % 2 if self.head_dim else self.hidden_size % (2 * self.num_heads)
        if odd or self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"found hidden_size {self.hidden_size}, {self.num_heads} heads, {self.num_kv_heads} key-value heads, "
                f"head_dim {self.head_dim}; expected an even head size (head_dim, or else hidden_size / num_heads) and "
                "num_heads a multiple of num_kv_heads"
            )
        return self

    @property
    def family(self) -> Literal["llama", "dots1"]:
        return "dots1" if self.experts else "llama"

    @property
    def head_size(self) -> int:
        return self.head_dim or self.hidden_size // self.num_heads


def count_parameters(shape: ModelShape) -> int:
    """All parameters, a tied head counted once."""
    return _matrices(shape, active=False) + _norms(shape) + count_embedding_parameters(shape)


def count_active_parameters(shape: ModelShape) -> int:
    """Parameters that one token passes, embedding and head included; fewer than all in a mixture of experts only."""
    return _matrices(shape, active=True) + _norms(shape) + count_embedding_parameters(shape)


def count_embedding_parameters(shape: ModelShape) -> int:
    """Embedding and output head, counted once where they are tied."""
    return shape.vocab_size * shape.hidden_size * (1 if shape.tie_embeddings else 2)


def count_matmul_parameters(shape: ModelShape) -> int:
    """Parameters that multiply each token: active matrices and the output head, without the embedding lookup."""
    return _matrices(shape, active=True) + shape.vocab_size * shape.hidden_size


def flops_per_token(shape: ModelShape, sequence_length: int) -> float:
    """Training FLOPs per token, forward and backward: 6 N + 12 · layers · width · length (not halved for causality)."""
    width = shape.num_heads * shape.head_size
    return 6.0 * count_matmul_parameters(shape) + 12.0 * shape.num_layers * width * sequence_length


def _norms(shape: ModelShape) -> int:
    of_heads = 2 * shape.head_size * shape.num_layers if shape.experts else 0
    return shape.hidden_size * (2 * shape.num_layers + 1) + of_heads


def _matrices(shape: ModelShape, *, active: bool) -> int:
    attention = 2 * shape.hidden_size * shape.head_size * (shape.num_heads + shape.num_kv_heads)
    dense = 3 * shape.hidden_size * shape.intermediate_size
    if shape.experts is None:
        return shape.num_layers * (attention + dense)
    experts = shape.experts
    used = experts.num_shared + (experts.top_k if active else experts.num_routed)
    sparse = 3 * shape.hidden_size * experts.intermediate_size * used + shape.hidden_size * experts.num_routed
    num_dense = min(experts.first_dense_layers, shape.num_layers)
    return shape.num_layers * attention + num_dense * dense + (shape.num_layers - num_dense) * sparse
