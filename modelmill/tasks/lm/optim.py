"""A model → its optimiser, with parameter groups that hold weight decay and muP's learning-rate factors."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from modelmill.tasks.errors import ContractError
from modelmill.tasks.lm.adamw import Bfloat16AdamW
from modelmill.tasks.lm.model import folded_multiplier
from modelmill.tasks.lm.muon import Muon
from modelmill.tasks.lm.names import is_hidden_matrix
from modelmill.tasks.lm.parallel.shard import set_whole
from modelmill.tasks.lm.settings import OptimizerConfig

MOMENTS = ("exp_avg", "exp_avg_sq", "momentum_buffer", "step")
ROUTER = ".mlp.gate.weight"
EMBEDDINGS = ("embed_tokens.weight", "lm_head.weight")


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW, or Muon with AdamW, over groups; a group keeps the model's order of parameters."""
    groups: dict[tuple[Any, ...], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        muon = config.kind == "muon" and is_muon_matrix(name)
        decays = parameter.ndim >= 2 and (config.decay_embeddings or not name.endswith(EMBEDDINGS))
        # gate_up_proj of experts holds two matrices, one above the other
        parts = 2 if name.endswith("gate_up_proj") else 1
        # One fused step takes tensors of one device mesh only.
        mesh = getattr(parameter, "device_mesh", None)
        folded = folded_multiplier(name, model)
        decay = config.weight_decay / folded if decays else 0.0
        key = (muon, decay, _rate_factor(name, model, config, muon) * folded, parts, mesh)
        groups.setdefault(key, []).append(parameter)
    made = [
        {"params": parameters, "muon": muon, "weight_decay": decay, "rate_factor": factor, "parts": parts}
        for (muon, decay, factor, parts, _), parameters in groups.items()
    ]
    kind = Bfloat16AdamW if config.state_precision == "bf16" else torch.optim.AdamW
    rest = [group for group in made if not group["muon"]]
    adamw = kind(rest, lr=0.0, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)
    if config.kind == "adamw":
        return adamw
    hidden = [group for group in made if group["muon"]]
    return Muon(hidden, momentum=config.momentum, steps=config.newton_schulz_steps, adamw=adamw)


def is_muon_matrix(name: str) -> bool:
    """Hidden matrices but the router, whose rows are one vector an expert rather than a map of the width."""
    return is_hidden_matrix(name) and not name.endswith((ROUTER, "bias"))


def _rate_factor(name: str, model: nn.Module, config: OptimizerConfig, muon: bool) -> float:
    if config.mup_base_width is None or not is_hidden_matrix(name):
        return 1.0
    ratio: float = config.mup_base_width / model.config.hidden_size  # pyright: ignore
    # An update of AdamW's size grows in spectral norm with the width, an orthogonal one of that size with its root.
    return ratio**0.5 if muon else ratio


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give every group the rate times its factor."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["rate_factor"]


def moments(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, torch.Tensor]:
    """The optimiser's state by parameter name: `<name>.exp_avg`, `.exp_avg_sq`, `.step` of AdamW, `.momentum_buffer`
    of Muon."""
    state = optimizer.state
    return {
        f"{name}.{key}": value.detach()
        for name, parameter in model.named_parameters()
        for key, value in state[parameter].items()
    }


def set_moments(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put state that `moments` returned into a fresh optimiser of the same model; empty: leave it fresh. Of a whole
    tensor the optimiser of a shard takes its part.

    Raises:
        ContractError: the state is that of another kind of optimiser, or of another model.
    """
    if not tensors:
        return
    muon = {id(parameter) for group in optimizer.param_groups if group["muon"] for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        wanted = {"momentum_buffer"} if id(parameter) in muon else {"exp_avg", "exp_avg_sq", "step"}
        found = {key for key in MOMENTS if f"{name}.{key}" in tensors}
        if found != wanted:
            raise ContractError(
                f"the optimiser's state holds {sorted(found)} for {name}; expected {sorted(wanted)}. Give the stage "
                "the same optimizer.kind as the stage before it"
            )
        state = {key: _placed_like(parameter, tensors[f"{name}.{key}"]) for key in wanted}
        if "step" in state:
            step = state["step"].float()
            state["step"] = step if parameter.is_cuda else step.cpu()
        optimizer.state[parameter] = state


@torch.no_grad()
def _placed_like(parameter: Tensor, moment: Tensor) -> Tensor:
    """A copy of a moment on its parameter's device, cut as the parameter is."""
    if not isinstance(parameter, DTensor) or isinstance(moment, DTensor) or not moment.ndim:
        return moment.to(parameter.device, copy=True)
    placed = torch.empty_like(parameter, dtype=moment.dtype)
    set_whole(placed, moment)
    return placed
