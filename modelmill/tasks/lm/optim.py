"""A model → its optimiser, with parameter groups that hold weight decay and muP's learning-rate factors."""

import torch
from torch import nn

from modelmill.tasks.lm.model import folded_multiplier
from modelmill.tasks.lm.names import is_hidden_matrix
from modelmill.tasks.lm.settings import OptimizerConfig

MOMENTS = ("exp_avg", "exp_avg_sq")


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over groups (weight decay, learning-rate factor, mesh); a group keeps the model's order of parameters."""
    groups: dict[tuple[float, float, object], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        decay = config.weight_decay if parameter.ndim >= 2 else 0.0
        folded = folded_multiplier(name, model)
        # One fused step takes tensors of one device mesh only.
        group = decay / folded, _rate_factor(name, model, config) * folded, getattr(parameter, "device_mesh", None)
        groups.setdefault(group, []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "weight_decay": decay, "rate_factor": factor}
            for (decay, factor, _), parameters in groups.items()
        ],
        lr=0.0,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=True,
    )


def _rate_factor(name: str, model: nn.Module, config: OptimizerConfig) -> float:
    if config.mup_base_width is None or not is_hidden_matrix(name):
        return 1.0
    return config.mup_base_width / model.config.hidden_size  # pyright: ignore


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give every group the rate times its factor."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["rate_factor"]


def moments(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, torch.Tensor]:
    """The optimiser's state by parameter name: `<name>.exp_avg`, `<name>.exp_avg_sq`, `<name>.step`."""
    state = optimizer.state
    return {
        f"{name}.{key}": value.detach()
        for name, parameter in model.named_parameters()
        for key, value in state[parameter].items()
    }


def set_moments(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Put state that `moments` returned into a fresh optimiser of the same model; empty: leave it fresh."""
    if not tensors:
        return
    for name, parameter in model.named_parameters():
        state = {key: tensors[f"{name}.{key}"].to(parameter.device, copy=True) for key in MOMENTS}
        step = tensors[f"{name}.step"].to(dtype=torch.float32, copy=True)
        optimizer.state[parameter] = state | {"step": step.to(parameter.device) if parameter.is_cuda else step}
