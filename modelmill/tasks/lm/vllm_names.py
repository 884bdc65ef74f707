"""A model's configuration → what vLLM must be told in place of its own words."""

import json
from typing import Any


def vllm_overrides(config: dict[str, Any]) -> dict[str, Any]:
    """Values for vLLM's `hf_overrides`, from a Hugging Face configuration.

    vLLM has no class for dots.llm1 since 0.23; that of GLM-4-MoE computes the same when it is told to normalise queries
    and keys and to turn whole heads, and starts in a quarter of the generic one's time. It has no tied head.
    """
    architecture: str = config["architectures"][0]
    if architecture != "Dots1ForCausalLM" or config["tie_word_embeddings"]:
        return {"architectures": [architecture]}
    return {
        "architectures": ["Glm4MoeForCausalLM"],
        "use_qk_norm": True,
        "rope_parameters": config["rope_parameters"] | {"partial_rotary_factor": 1.0},
    }


def vllm_arguments(config: dict[str, Any]) -> list[str]:
    """The same as arguments of `vllm serve`; none where the configuration says it all."""
    found = vllm_overrides(config)
    return ["--hf-overrides", json.dumps(found)] if found["architectures"] != config["architectures"] else []
