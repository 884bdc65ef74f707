"""A shape and a seed → an initialised transformers model; a Hugging Face folder → the model in it.

The weights of an initialisation depend on the seed and each parameter's name only: not on the order of creation,
the number of processes or the device.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Dots1Config, LlamaConfig, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.utils import logging

from modelmill.tasks.errors import InputError
from modelmill.tasks.lm.rope import read_rope, rope_parameters
from modelmill.tasks.lm.settings import InitialisationConfig
from modelmill.tasks.lm.shape import Experts, ModelShape, RopeScaling

RESIDUAL_OUTPUT = re.compile(r"\.(o_proj|down_proj)(\.weight)?$")


def model_config(shape: ModelShape, special_tokens: dict[str, int] | None = None) -> LlamaConfig | Dots1Config:
    """The transformers configuration of a shape; `special_tokens` may hold bos_token_id, eos_token_id, pad_token_id."""
    common: dict[str, Any] = {
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_size,
        "max_position_embeddings": shape.max_sequence_length,
        "rope_parameters": rope_parameters(shape.rope_theta, shape.rope_scaling, shape.head_size),
        "rms_norm_eps": shape.norm_eps,
        "tie_word_embeddings": shape.tie_embeddings,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    } | (special_tokens or {})
    if shape.experts is None:
        return LlamaConfig(**common)
    return Dots1Config(
        **common,
        n_routed_experts=shape.experts.num_routed,
        n_shared_experts=shape.experts.num_shared,
        num_experts_per_tok=shape.experts.top_k,
        moe_intermediate_size=shape.experts.intermediate_size,
        first_k_dense_replace=shape.experts.first_dense_layers,
        routed_scaling_factor=shape.experts.routed_scaling_factor,
        norm_topk_prob=True,
        sliding_window=None,
    )


def build_model(
    shape: ModelShape,
    *,
    seed: int,
    initialisation: InitialisationConfig | None = None,
    special_tokens: dict[str, int] | None = None,
    device: str = "cpu",
) -> PreTrainedModel:
    """A new model in float32, in training mode."""
    with no_init_weights():
        model = AutoModelForCausalLM.from_config(model_config(shape, special_tokens))
    model.tie_weights()
    initialise(model, seed, initialisation or InitialisationConfig())
    return model.to(torch.device(device)).train()  # pyright: ignore[reportArgumentType]


@torch.no_grad()
def initialise(model: PreTrainedModel, seed: int, initialisation: InitialisationConfig) -> None:
    """Draw every parameter from its own generator, seeded by (seed, name)."""
    for name, parameter in model.named_parameters():
        std = _standard_deviation(name, parameter, model.config, initialisation)
        if std is None:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            continue
        digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.zero_()


def _standard_deviation(
    name: str, parameter: Tensor, config: Any, initialisation: InitialisationConfig
) -> float | None:
    if parameter.ndim < 2:
        return None
    std = initialisation.std
    if initialisation.mup_base_width and is_hidden_matrix(name):
        std *= (initialisation.mup_base_width / config.hidden_size) ** 0.5
    if initialisation.scale_residual and RESIDUAL_OUTPUT.search(name):
        std /= (2 * config.num_hidden_layers) ** 0.5
    return std


def is_hidden_matrix(name: str) -> bool:
    """Matrices from width to width, which muP scales; not embedding, head or norms."""
    return ".layers." in name and "norm" not in name


def load_model(
    folder: Path | str,
    *,
    rope_theta: float | None = None,
    rope_scaling: RopeScaling | None = None,
    max_sequence_length: int | None = None,
    device: str = "cpu",
) -> PreTrainedModel:
    """Open a Hugging Face folder in float32, in training mode, if asked with other rotary embeddings and more positions
    (`rope_scaling` counts only beside a `rope_theta`)."""
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise InputError(f"no config.json in {folder}; expected a Hugging Face model folder")
    shape = read_shape(folder)
    changes: dict[str, Any] = {}
    if rope_theta is not None:
        changes["rope_parameters"] = rope_parameters(rope_theta, rope_scaling, shape.head_size)
    if max_sequence_length is not None:
        changes["max_position_embeddings"] = max_sequence_length
    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **changes)
    return model.to(torch.device(device)).train()  # pyright: ignore[reportArgumentType]


def read_shape(folder: Path | str) -> ModelShape:
    """The shape of the model in a Hugging Face folder."""
    config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    experts = None
    if config["model_type"] == "dots1":
        experts = Experts(
            num_routed=config["n_routed_experts"],
            num_shared=config["n_shared_experts"],
            top_k=config["num_experts_per_tok"],
            intermediate_size=config["moe_intermediate_size"],
            first_dense_layers=config["first_k_dense_replace"],
            routed_scaling_factor=config["routed_scaling_factor"],
        )
    rope_theta, rope_scaling = read_rope(config["rope_parameters"])
    head_dim = config.get("head_dim")
    return ModelShape(
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        num_kv_heads=config["num_key_value_heads"],
        intermediate_size=config["intermediate_size"],
        head_dim=None if head_dim == config["hidden_size"] // config["num_attention_heads"] else head_dim,
        max_sequence_length=config["max_position_embeddings"],
        rope_theta=rope_theta,
        rope_scaling=rope_scaling,
        tie_embeddings=config["tie_word_embeddings"],
        norm_eps=config["rms_norm_eps"],
        experts=experts,
    )


def hidden_states(model: PreTrainedModel, input_ids: Tensor, position_ids: Tensor) -> Tensor:
    """Last hidden states [rows, length, width]; a position that does not follow the one before starts a new document,
    and attention never crosses documents (transformers builds that mask from `position_ids`)."""
    return model.model(input_ids=input_ids, position_ids=position_ids, use_cache=False).last_hidden_state


def output_head(model: PreTrainedModel) -> Tensor:
    """The matrix from hidden states to logits [vocabulary, width]."""
    return model.lm_head.weight  # pyright: ignore


def set_context(
    model: PreTrainedModel, *, rope_theta: float, max_sequence_length: int, rope_scaling: RopeScaling | None = None
) -> None:
    """Give a model other rotary embeddings and more positions, in place."""
    config: Any = model.config
    config.rope_parameters = rope_parameters(rope_theta, rope_scaling, config.head_dim)
    config.max_position_embeddings = max_sequence_length
    rotary: Any = model.model.rotary_emb  # pyright: ignore
    model.model.rotary_emb = type(rotary)(config=config).to(rotary.inv_freq.device)  # pyright: ignore
