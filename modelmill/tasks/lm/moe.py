"""A model's routers → evenly loaded experts: loads, selection bias, balance loss within a row (dots.llm1 §2).

Bias and loss are those of DeepSeek-V3 (arXiv:2412.19437 §2.1.2), taken over by dots.llm1 (arXiv:2506.05767).
Shapes: R rows, T tokens of a row, E routed experts, K of them chosen for a token, L layers with experts.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, grouped_mm_experts_forward

from modelmill.tasks.errors import RecipeError
from modelmill.tasks.lm.evaluate import ValidationSet
from modelmill.tasks.lm.model import hidden_states
from modelmill.tasks.lm.parallel.ranks import Ranks
from modelmill.tasks.lm.settings import ExpertBalance


def router_modules(model: nn.Module) -> list[Any]:
    """The routers of a model from the bottom up; none in a dense model."""
    return [module for module in model.modules() if hasattr(module, "e_score_correction_bias")]


def balance_loss(logits: Tensor, num_rows: int, top_k: int, context: dist.ProcessGroup | None = None) -> Tensor:
    """Sum over rows of sum_i f_i · P_i: logits [R·T, E] → scalar; a row whose load is even has 1.

    Where the processes of `context` share the rows, T are this process's tokens, and the sum over them is that value.

    f_i = E / (K·T) · number of tokens whose K best scores, without the bias, include i (no gradient);
    P_i = mean over the row of s_i / sum_j s_j, with s = sigmoid(logits).
    """
    scores = logits.sigmoid().view(num_rows, -1, logits.shape[-1])
    num_tokens, num_experts = scores.shape[1:]
    chosen = scores.detach().topk(top_k, dim=-1, sorted=False).indices.flatten(1)
    ones = torch.ones_like(chosen, dtype=scores.dtype)
    fractions = scores.new_zeros(num_rows, num_experts).scatter_add_(1, chosen, ones)
    if context is not None:
        dist.all_reduce(fractions, group=context)
        num_tokens *= dist.get_world_size(context)
    probabilities = (scores / scores.sum(-1, keepdim=True)).sum(1) / num_tokens
    return (fractions * probabilities).sum() * (num_experts / (top_k * num_tokens))


def max_violation(loads: Tensor) -> Tensor:
    """MaxVio = largest load / mean load - 1 (arXiv:2408.15664): tokens by expert [..., E] → [...]."""
    return loads.amax(-1) / loads.double().mean(-1).clamp(min=1e-9) - 1


class Routers:
    """Watches the routers of a model and its replicas; does nothing for a dense model. Made by `open_routers`."""

    def __init__(self, models: Sequence[nn.Module], config: ExpertBalance, ranks: Ranks) -> None:
        self.config = config
        self.ranks = ranks
        self.context = ranks.context_mesh.get_group() if ranks.context_mesh else None
        self.replicas = [router_modules(model) for model in models]
        self.biases: list[Any] = [router.e_score_correction_bias for router in self.replicas[0]]
        shape = (len(self.biases), self.biases[0].numel() if self.biases else 0)
        device = self.biases[0].device if self.biases else "cpu"
        self.loads = [torch.zeros(shape, dtype=torch.int64, device=device) for _ in models]
        self.losses = [torch.zeros(2, device=device) for _ in models]
        """By replica: sum of the balance loss, and number of rows that it is of."""
        self.row_weight = 1.0

    def begin_step(self, num_rows: int) -> None:
        """`num_rows`: rows of the whole batch.

        Raises:
            RecipeError: the processes cannot share the rows evenly; a row that two have would count twice.
        """
        if self.biases and num_rows % self.ranks.layout.data_size:
            raise RecipeError(
                f"a batch of {num_rows} rows does not divide by the {self.ranks.layout.data_size} processes that share "
                "its rows, which a mixture of experts needs; change batch_tokens or the layout"
            )
        # Of processes that share matrices (tensor) each has the routers, and their whole gradient, by itself.
        self.row_weight = 1 / num_rows
        for tensor in (*self.loads, *self.losses):
            tensor.zero_()

    @torch.no_grad()
    def end_step(self, progress: float) -> dict[str, Tensor]:
        """Move the biases by the loads of the whole batch, of all processes; returns figures of the step.

        progress: share of the stage's tokens that have been seen.

        max_violation: mean over layers; max_violation_by_layer [L]; balance_loss: mean over rows and layers before its
        weight, 1 where every row is even.
        """
        if not self.biases:
            return {}
        loads, losses = torch.stack(self.loads).sum(0), torch.stack(self.losses).sum(0)
        if dist.is_available() and dist.is_initialized():
            # Processes that share tokens (tensor parallel) all count them: a common factor changes nothing here.
            dist.all_reduce(loads)
            dist.all_reduce(losses)
        if self.config.bias_rate and progress <= 1 - self.config.bias_frozen_share:
            for bias, load in zip(self.biases, loads.double(), strict=True):
                bias.add_(torch.sign(load.mean() - load), alpha=self.config.bias_rate)
        by_layer = max_violation(loads).float()
        figures = {"max_violation": by_layer.mean(), "max_violation_by_layer": by_layer}
        if self.config.sequence_loss:
            figures["balance_loss"] = losses[0] / losses[1].clamp(min=1)
        return figures

    def hook(self, replica: int, layer: int) -> Callable[..., Any]:
        """Counts a router's choices and adds the balance loss to its gradient."""

        def watch(router: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor, Tensor]) -> Any:
            logits, weights, chosen = output
            if not router.training:
                return output
            # Under activation checkpointing the forward pass runs again inside the backward pass: counted once only.
            again = torch._C._current_graph_task_id() != -1
            if not again:
                count(self.loads[replica][layer], chosen)
            if self.config.sequence_loss:
                num_rows = inputs[0].shape[0]
                loss = balance_loss(logits, num_rows, router.top_k, self.context)
                if not again:
                    rows = loss.new_tensor(num_rows / self.ranks.layout.context)
                    self.losses[replica] += torch.stack([loss.detach(), rows])
                weights = _AddedLoss.apply(weights, loss, self.config.sequence_loss * self.row_weight)
            return logits, weights, chosen

        return watch


def count(load: Tensor, chosen: Tensor) -> None:
    """Add the choices of tokens, int64 [..., K], to the loads [E]."""
    indices = chosen.detach().flatten()
    load.scatter_add_(0, indices, torch.ones_like(indices))


@torch.no_grad()
def expert_loads(model: Any, held_out: ValidationSet, ranks: Ranks) -> dict[str, Any]:
    """ExpertLoad(i, D) = N_{i,D} / N_D of held-out tokens (dots.llm1 §6): the share of a domain's tokens that an expert
    gets, K in all; and MaxVio by layer and domain, and the mean over layers for all domains together.

    Every process of a layout calls it and gets the same.
    """
    watched = router_modules(model)
    loads = {
        domain: torch.zeros(len(watched), watched[0].num_experts, dtype=torch.int64) for domain in held_out.batches
    }
    was_training = model.training
    model.eval()
    for domain, load in loads.items():
        handles = [router.register_forward_hook(_counter(load[layer])) for layer, router in enumerate(watched)]
        for piece in held_out.batches[domain].split(held_out.rows_per_forward):
            piece = piece.to(str(next(model.parameters()).device))
            hidden_states(model, piece.input_ids, piece.position_ids)
        for handle in handles:
            handle.remove()
        if ranks.context_mesh is not None:
            # Each process has routed its part of the tokens of every row.
            total = load.to(ranks.device)
            dist.all_reduce(total, group=ranks.context_mesh.get_group())
            load.copy_(total)
    model.train(was_training)
    return {
        "domains": {
            domain: {
                "tokens": held_out.batches[domain].num_tokens,
                "load": (load / held_out.batches[domain].num_tokens).tolist(),
                "max_violation_by_layer": max_violation(load).tolist(),
            }
            for domain, load in loads.items()
        },
        "max_violation": float(max_violation(sum(loads.values(), torch.zeros(()))).mean()),
    }


def _counter(load: Tensor) -> Callable[..., None]:
    def watch(router: nn.Module, inputs: tuple[Tensor], output: tuple[Tensor, Tensor, Tensor]) -> None:
        count(load, output[2].cpu())

    return watch


class _AddedLoss(torch.autograd.Function):
    """Passes the routing weights on; in the backward pass the loss beside them gets `weight` as its gradient.

    So an objective need not know of the loss, and it survives activation checkpointing and micro-batches.
    """

    @staticmethod
    def forward(ctx, weights: Tensor, loss: Tensor, weight: float) -> Tensor:  # pyright: ignore
        ctx.gradient = torch.full_like(loss, weight)
        return weights.view_as(weights)

    @staticmethod
    def backward(ctx, *gradients: Tensor):  # pyright: ignore
        return gradients[0], ctx.gradient, None


@contextmanager
def open_routers(models: Sequence[nn.Module], config: ExpertBalance, ranks: Ranks) -> Iterator[Routers]:
    """Watch the routers of a model and its replicas (the model first) on this process of a layout.

    Under autocast the routers stay in float32 and the experts' grouped products take its precision; by themselves
    the ones would not, since autocast undoes their cast, and the others neither, since it does not know grouped_mm.
    """
    ALL_EXPERTS_FUNCTIONS.register("grouped_mm", _grouped_experts)
    routers = Routers(models, config, ranks)
    watched = [router for replica in routers.replicas for router in replica]
    forwards = [vars(router).get("forward") for router in watched]
    handles = [
        router.register_forward_hook(routers.hook(number, layer))
        for number, replica in enumerate(routers.replicas)
        for layer, router in enumerate(replica)
    ]
    for router in watched:
        router.forward = _without_autocast(router.forward)
    try:
        yield routers
    finally:
        for handle in handles:
            handle.remove()
        for router, forward in zip(watched, forwards, strict=True):
            del router.forward
            if forward is not None:
                router.forward = forward


def _without_autocast(forward: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    def float32_forward(hidden: Tensor) -> Any:
        with torch.autocast(hidden.device.type, enabled=False):
            return forward(hidden.float())

    return float32_forward


def _grouped_experts(experts: Any, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    device = hidden.device.type
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        return grouped_mm_experts_forward(experts, hidden, chosen, weights)
    dtype = torch.get_autocast_dtype(device)
    return grouped_mm_experts_forward(_Cast(experts, dtype), hidden.to(dtype), chosen, weights)  # pyright: ignore


class _Cast:
    """A module seen with its own parameters in another precision."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        self._module = module
        for name, parameter in module.named_parameters(recurse=False):
            setattr(self, name, parameter.to(dtype))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)
