"""Rotary base and frequency scaling ↔ the `rope_parameters` of a Hugging Face configuration. Needs pydantic only."""

from typing import Any

from modelmill.tasks.lm.shape import RopeScaling

_LLAMA3 = {
    "factor": "factor",
    "low_freq_factor": "low_frequency_factor",
    "high_freq_factor": "high_frequency_factor",
    "original_max_position_embeddings": "original_length",
}


def rope_parameters(theta: float, scaling: RopeScaling | None, head_size: int) -> dict[str, Any]:
    """What transformers and vLLM read. NTK-aware scaling is nothing but another base."""
    if scaling is None:
        return {"rope_type": "default", "rope_theta": theta}
    if scaling.kind == "ntk":
        return {"rope_type": "default", "rope_theta": ntk_theta(theta, scaling.factor, head_size)}
    return {"rope_type": "llama3", "rope_theta": theta} | {
        key: getattr(scaling, field) for key, field in _LLAMA3.items()
    }


def ntk_theta(theta: float, factor: float, head_size: int) -> float:
    """The base at which the slowest of a head's waves, theta^(-(d - 2) / d), is slower by `factor`."""
    return theta * factor ** (head_size / (head_size - 2))


def read_rope(parameters: dict[str, Any]) -> tuple[float, RopeScaling | None]:
    """Base and scaling that `rope_parameters` wrote.

    Raises:
        ValueError: a kind of rotary embedding that Modelmill does not train.
    """
    kind = parameters.get("rope_type", "default")
    if kind == "default":
        return parameters["rope_theta"], None
    if kind != "llama3":
        raise ValueError(f"found rotary embeddings of the type {kind!r}; expected 'default' or 'llama3'")
    fields = {field: parameters[key] for key, field in _LLAMA3.items()}
    return parameters["rope_theta"], RopeScaling(kind="llama3", **fields)
