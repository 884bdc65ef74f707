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

from modelmill.tasks.lm.evaluate import ValidationSet, measured
from modelmill.tasks.lm.losses import Head
from modelmill.tasks.lm.parallel.ranks import Ranks
from modelmill.tasks.lm.pipeline.run import pipeline_of
from modelmill.tasks.lm.settings import ExpertBalance


def router_modules(model: nn.Module) -> list[Any]:
    """The routers that this process has of a model, from the bottom up; none in a dense model."""
    return list(_placed_routers(model).values())


def count_expert_layers(model: Any) -> int:
    """Layers with experts of the whole model, whatever part of it this process has."""
    config = model.config
    return max(config.num_hidden_layers - config.first_k_dense_replace, 0) if config.model_type == "dots1" else 0


def _placed_routers(model: nn.Module) -> dict[int, Any]:
    """Routers by their place among all layers with experts."""
    routers = {
        int(name.split("layers.")[1].split(".")[0]): module
        for name, module in model.named_modules()
        if hasattr(module, "e_score_correction_bias")
    }
    first: int = getattr(model.config, "first_k_dense_replace", 0)  # pyright: ignore
    return {number - first: router for number, router in routers.items()}


def balance_loss(logits: Tensor, num_rows: int, top_k: int, groups: Sequence[dist.ProcessGroup] = ()) -> Tensor:
    """Sum over rows of sum_i f_i · P_i: logits [R·T, E] → scalar; a row whose load is even has 1.

    Where the processes of `groups` share the rows, T are this process's tokens, and the sum over them is that value.

    f_i = E / (K·T) · number of tokens whose K best scores, without the bias, include i (no gradient);
    P_i = mean over the row of s_i / sum_j s_j, with s = sigmoid(logits).
    """
    scores = logits.sigmoid().view(num_rows, -1, logits.shape[-1])
    num_tokens, num_experts = scores.shape[1:]
    chosen = scores.detach().topk(top_k, dim=-1, sorted=False).indices.flatten(1)
    ones = torch.ones_like(chosen, dtype=scores.dtype)
    fractions = scores.new_zeros(num_rows, num_experts).scatter_add_(1, chosen, ones)
    for group in groups:
        dist.all_reduce(fractions, group=group)
        num_tokens *= group.size()
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
        self.groups = ranks.sharing_groups
        self.replicas = [_placed_routers(model) for model in models]
        self.num_layers = count_expert_layers(models[0])
        shape = (self.num_layers, _num_experts(models[0]))
        device = next(models[0].parameters()).device
        self.loads = [torch.zeros(shape, dtype=torch.int64, device=device) for _ in models]
        """By replica: tokens of each expert, of all layers. Layers of other processes stay 0."""
        self.losses = [torch.zeros(2, device=device) for _ in models]
        """By replica: sum of the balance loss, and number of rows that it is of."""
        self.row_weight = 1.0

    def begin_step(self, num_rows: int) -> None:
        """`num_rows`: rows of the whole batch, which the processes share evenly (`parallel.layout.check_batches`)."""
        assert not (self.num_layers and num_rows % self.ranks.layout.data_size)
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
        if not self.num_layers:
            return {}
        loads, losses = torch.stack(self.loads).sum(0), torch.stack(self.losses).sum(0)
        if dist.is_available() and dist.is_initialized():
            # Each layer's loads come from the processes that hold it.
            dist.all_reduce(loads)
            dist.all_reduce(losses)
        if self.config.bias_rate and progress <= 1 - self.config.bias_frozen_share:
            for layer, router in self.replicas[0].items():
                load = loads[layer].double()
                router.e_score_correction_bias.add_(torch.sign(load.mean() - load), alpha=self.config.bias_rate)
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
                loss = balance_loss(logits, num_rows, router.top_k, self.groups)
                if not again:
                    rows = loss.new_tensor(num_rows / self.ranks.layout.sharing_size)
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
    watched, pipeline = _placed_routers(model), pipeline_of(model)
    shape = (count_expert_layers(model), _num_experts(model))
    loads = {domain: torch.zeros(shape, dtype=torch.int64) for domain in held_out.batches}
    was_training = model.training
    model.eval()
    for domain, load in loads.items():
        handles = [router.register_forward_hook(_counter(load[layer])) for layer, router in watched.items()]
        pieces = list(held_out.batches[domain].split(held_out.rows_per_forward))
        measured(model, pieces, _nothing)
        if pipeline:
            dist.all_reduce(load, group=pipeline.group)
        for handle in handles:
            handle.remove()
        for group in ranks.sharing_groups:
            # Each process has routed its part of the tokens of every row.
            total = load.to(ranks.device)
            dist.all_reduce(total, group=group)
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


def _num_experts(model: Any) -> int:
    return getattr(model.config, "n_routed_experts", 0)


def _nothing(hidden: Tensor, head: Head, batch: Any) -> Tensor:
    return hidden.new_zeros(())


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
    watched = [router for replica in routers.replicas for router in replica.values()]
    forwards = [vars(router).get("forward") for router in watched]
    handles = [
        router.register_forward_hook(routers.hook(number, layer))
        for number, replica in enumerate(routers.replicas)
        for layer, router in replica.items()
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
