"""A parameter's name → its kind, how it begins, and which multiplier is folded into it.

MiniCPM multiplies embeddings by scale_emb, what a block adds to the residual stream by scale_depth / sqrt(layers), and
divides logits by width / base width (arXiv:2404.06395, Table 7). Here a multiplier c is part of the weight: W' = c·W
begins c times as large, learns c times as fast and decays at rate / c. Then W' = c·W at every step of Adam or Muon,
and an export needs no multiplier. A tied embedding takes scale_emb, the norm before the head what is left. Forward
passes are equal; training differs where gradients enter by size: in Adam's epsilon and in the clipping of their norm.
"""

import re
from typing import Any, Literal

from modelmill.tasks.lm.settings import InitialisationConfig

Kind = Literal["embedding", "head", "reward_head", "final_norm", "residual", "router", "hidden", "vector"]

_KINDS: tuple[tuple[re.Pattern[str], Kind], ...] = (
    (re.compile(r"embed_tokens\.weight$"), "embedding"),
    (re.compile(r"lm_head\.weight$"), "head"),
    (re.compile(r"lm_head\.reward\.weight$"), "reward_head"),
    (re.compile(r"model\.norm\.weight$"), "final_norm"),
    (re.compile(r"norm\.weight$|bias$"), "vector"),
    (re.compile(r"\.mlp\.gate\.weight$"), "router"),
    (re.compile(r"\.(o_proj|down_proj)(\.weight)?$"), "residual"),
    (re.compile(r"\.layers\."), "hidden"),
)


def kind_of(name: str) -> Kind:
    """The kind of a parameter of a Llama or a dots.llm1, or of a reward model over one.

    Raises:
        ValueError: a parameter that neither of them has.
    """
    for pattern, kind in _KINDS:
        if pattern.search(name):
            return kind
    raise ValueError(f"found a parameter {name!r}; expected one of a Llama or a dots.llm1")


def is_hidden_matrix(name: str) -> bool:
    """Matrices within the blocks, which muP scales; not embedding, head or norms."""
    return kind_of(name) in ("residual", "router", "hidden")


def folded_multipliers(config: Any, initialisation: InitialisationConfig) -> dict[Kind, float]:
    """The multiplier that each kind of parameter takes in; kinds without one are left out.

    config: of the model, by transformers.
    """
    multipliers: dict[Kind, float] = {}
    if initialisation.scale_emb != 1:
        multipliers["embedding"] = initialisation.scale_emb
    if initialisation.scale_depth is not None:
        multipliers["residual"] = initialisation.scale_depth / config.num_hidden_layers**0.5
    logits = 1.0
    if initialisation.scale_head and initialisation.mup_base_width:
        logits = initialisation.mup_base_width / config.hidden_size
    if config.tie_word_embeddings:
        multipliers["final_norm"] = logits / initialisation.scale_emb
    else:
        multipliers["head"] = logits
    return {kind: value for kind, value in multipliers.items() if value != 1}


def beginning(name: str, config: Any, initialisation: InitialisationConfig) -> tuple[float, float]:
    """(mean, standard deviation) that a parameter is drawn with."""
    kind = kind_of(name)
    multiplier = folded_multipliers(config, initialisation).get(kind, 1.0)
    if kind in ("vector", "final_norm"):
        return (0.0 if name.endswith("bias") else multiplier), 0.0
    std = initialisation.std
    if kind == "router" and initialisation.router_std is not None:
        return 0.0, initialisation.router_std
    if initialisation.mup_base_width and is_hidden_matrix(name):
        std *= (initialisation.mup_base_width / config.hidden_size) ** 0.5
    if kind == "residual" and initialisation.scale_residual:
        std /= (2 * config.num_hidden_layers) ** 0.5
    return 0.0, std * multiplier
