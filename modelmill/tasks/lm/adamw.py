"""Parameter groups → AdamW with moments in bfloat16 (DeepSeek-V3, arXiv:2412.19437 §3.3.2)."""

from typing import Any

import torch
from torch import nn
from torch.optim.adamw import adamw


class Bfloat16AdamW(torch.optim.AdamW):
    """AdamW whose moments are kept in bfloat16 and brought to float32 one parameter at a time."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step of all groups."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step(parameter, group)

    def _step(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), device=parameter.device if parameter.is_cuda else "cpu")
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = torch.zeros_like(parameter, dtype=torch.bfloat16)
        first, second = state["exp_avg"].float(), state["exp_avg_sq"].float()
        beta1, beta2 = group["betas"]
        adamw(
            [parameter], [parameter.grad], [first], [second], [], [state["step"]],
            fused=True, amsgrad=False, beta1=beta1, beta2=beta2, lr=group["lr"],
            weight_decay=group["weight_decay"], eps=group["eps"], maximize=False,
        )  # fmt: skip
        state["exp_avg"].copy_(first)
        state["exp_avg_sq"].copy_(second)
