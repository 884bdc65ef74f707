"""A shape and a seed → an initialised transformers model; a Hugging Face folder → the model in it.

The weights of an initialisation depend on the seed and each parameter's name only: not on the order of creation,
the number of processes or the device.
"""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Dots1Config, LlamaConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from modelmill.tasks.errors import InputError
from modelmill.tasks.lm.attention import Documents, attend_by_document
from modelmill.tasks.lm.data import TrainingBatch
from modelmill.tasks.lm.losses import Measure
from modelmill.tasks.lm.names import beginning, folded_multipliers, kind_of
from modelmill.tasks.lm.norms import fuse_norms
from modelmill.tasks.lm.parallel.layout import check_layout
from modelmill.tasks.lm.parallel.ranks import Ranks
from modelmill.tasks.lm.parallel.shard import set_whole, spread_model
from modelmill.tasks.lm.parallel.vocabulary import head_part
from modelmill.tasks.lm.pipeline.run import own_parts, pipeline_of
from modelmill.tasks.lm.rope import read_rope, rope_parameters
from modelmill.tasks.lm.settings import InitialisationConfig
from modelmill.tasks.lm.shape import Experts, ModelShape, RopeScaling
from modelmill.tasks.lm.tensor_files import model_files, parameter_tensor
from modelmill.tasks.models.folder import check_model_folder, read_object
from modelmill.tasks.models.load import load_causal_model, load_config


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
    ranks: Ranks | None = None,
    compute_dtype: torch.dtype = torch.float32,
) -> PreTrainedModel:
    """A new model in float32, in training mode: whole, or this process's layers and shards where `ranks` says so.

    Shards are gathered in `compute_dtype`; one whole tensor at a time exists while weights are drawn.
    """
    config, ranks = model_config(shape, special_tokens), ranks or Ranks()
    if not ranks.alone:
        model = _empty_shards(config, shape, ranks, compute_dtype)
        initialise(model, seed, initialisation or InitialisationConfig())
        return model.train()
    with no_init_weights():
        model = AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    initialise(model, seed, initialisation or InitialisationConfig())
    return _placed(model, device)


def _empty_shards(
    config: Any, shape: ModelShape, ranks: Ranks, compute_dtype: torch.dtype, with_head: bool = True
) -> PreTrainedModel:
    """This process's part of a model in float32, with memory but without values."""
    check_layout(ranks.layout, shape)
    with no_init_weights(), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.tie_weights()
    if not with_head:
        model.lm_head = None
    attend_by_document(model)
    fuse_norms(model)
    spread_model(model, ranks, parts=own_parts(shape, ranks), compute_dtype=compute_dtype)
    return model


def _placed(model: PreTrainedModel, device: str) -> PreTrainedModel:
    model.to(torch.device(device)).train()  # pyright: ignore[reportArgumentType]
    attend_by_document(model)
    fuse_norms(model)
    return model


@torch.no_grad()
def initialise(model: PreTrainedModel, seed: int, initialisation: InitialisationConfig) -> None:
    """Draw every parameter from its own generator, seeded by (seed, name)."""
    multipliers = folded_multipliers(model.config, initialisation)
    if multipliers:
        model.config.folded_multipliers = multipliers  # for the optimisers of this stage and of later ones
    for name, parameter in model.named_parameters():
        mean, std = beginning(name, model.config, initialisation)
        if not std:
            parameter.fill_(mean)
            continue
        digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
        set_whole(parameter, torch.randn(parameter.shape, generator=generator) * std)
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.zero_()


def folded_multiplier(name: str, model: nn.Module) -> float:
    """What is folded into a parameter: it learns so many times as fast, and decays as many times slower."""
    return getattr(model.config, "folded_multipliers", {}).get(kind_of(name), 1.0)


def load_model(
    folder: Path | str,
    *,
    rope_theta: float | None = None,
    rope_scaling: RopeScaling | None = None,
    max_sequence_length: int | None = None,
    device: str = "cpu",
    ranks: Ranks | None = None,
    compute_dtype: torch.dtype = torch.float32,
    with_head: bool = True,
) -> PreTrainedModel:
    """Open a Hugging Face folder in float32, in training mode, if asked with other rotary embeddings and more positions
    (`rope_scaling` counts only beside a `rope_theta`).

    Where `ranks` has several processes, each gets its shards, which are gathered in `compute_dtype`; one whole tensor
    at a time is read. `with_head` false: without the matrix to the vocabulary, for a model that `set_head` gives
    another one.

    Raises:
        InputError: the folder holds no model, or not all of its weights.
        RecipeError: the layout cannot hold the model.
    """
    folder, ranks = Path(folder), ranks or Ranks()
    check_model_folder(folder)
    shape = read_shape(folder)
    changes: dict[str, Any] = {}
    if rope_theta is not None:
        changes["rope_parameters"] = rope_parameters(rope_theta, rope_scaling, shape.head_size)
    if max_sequence_length is not None:
        changes["max_position_embeddings"] = max_sequence_length
    if not ranks.alone:
        config = load_config(folder, **changes)
        model = _empty_shards(config, shape, ranks, compute_dtype, with_head)
        _read_shards(model, folder)
        return model.train()
    model = load_causal_model(folder, dtype=torch.float32, **changes)
    if not with_head:
        model.lm_head = None
    return _placed(model, device)


@torch.no_grad()
def _read_shards(model: PreTrainedModel, folder: Path) -> None:
    tensors, stored = model_files(folder), model.state_dict().keys()
    buffers = ((name, buffer) for name, buffer in model.named_buffers() if name in stored)
    for name, target in (*model.named_parameters(), *buffers):
        set_whole(target, parameter_tensor(tensors, name))


def read_shape(folder: Path | str) -> ModelShape:
    """The shape of the model in a Hugging Face folder. Raises InputError where its configuration has none."""
    path = Path(folder) / "config.json"
    try:
        return _shape(read_object(path))
    except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise InputError(f"{path} describes no model that Modelmill trains: {type(error).__name__} {error}") from error


def _shape(config: dict[str, Any]) -> ModelShape:
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
    and attention never crosses documents."""
    found = model.model(
        input_ids=input_ids,
        position_ids=position_ids,
        documents=Documents(position_ids),
        use_cache=False,
    )
    return found.last_hidden_state


def output_head(model: PreTrainedModel) -> Any:
    """What comes after the last hidden states: of a language model the matrix to logits [vocabulary, width], or this
    process's part where it is cut."""
    return head_part(model.lm_head)


def measure_batch(model: PreTrainedModel, batch: TrainingBatch, measure: Measure) -> Tensor:
    """What `measure` makes of a batch on the model's device; not for a model cut into pipeline stages."""
    return measure(hidden_states(model, *batch.sequences), output_head(model), batch)


def set_head(model: PreTrainedModel, head: nn.Module) -> None:
    """Give a model that was opened without a head one, whose `part()` measures get. Of the processes of a pipeline only
    those with the last layers take it."""
    pipeline = pipeline_of(model)
    if pipeline is None:
        model.lm_head = head
    elif pipeline.stages[-1].part.has_head:
        model.lm_head = pipeline.stages[-1].lm_head = head


def set_context(
    model: PreTrainedModel, *, rope_theta: float, max_sequence_length: int, rope_scaling: RopeScaling | None = None
) -> None:
    """Give a model other rotary embeddings and more positions, in place."""
    config: Any = model.config
    config.max_position_embeddings = max_sequence_length
    _set_rope(model, rope_parameters(rope_theta, rope_scaling, config.head_dim))


def set_rope_theta(model: PreTrainedModel, rope_theta: float) -> None:
    """Give a model another rotary base and keep its scaling, in place."""
    config: Any = model.config
    if config.rope_parameters["rope_theta"] != rope_theta:
        _set_rope(model, config.rope_parameters | {"rope_theta": rope_theta})


@torch.no_grad()
def _set_rope(model: PreTrainedModel, parameters: dict[str, Any]) -> None:
    """The frequencies are written into the buffers that replicas of the model share."""
    config: Any = model.config
    config.rope_parameters = parameters
    rotary: Any = model.model.rotary_emb  # pyright: ignore
    fresh = type(rotary)(config=config)
    rotary.inv_freq.copy_(fresh.inv_freq)
    rotary.original_inv_freq.copy_(fresh.original_inv_freq)
    rotary.rope_type, rotary.attention_scaling = fresh.rope_type, fresh.attention_scaling
    rotary.max_seq_len_cached = rotary.original_max_seq_len = config.max_position_embeddings
