"""Tensors of log-probabilities, rewards or hidden states → training losses, as pure functions.

Shapes: R rows, T tokens of a row, N = R·T positions, D width, V vocabulary, P pairs. Log-probabilities in nats.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from modelmill.tasks.lm.parallel.vocabulary import HeadPart, part_cross_entropy_sum

IGNORE = -100
"""Label of a position that has no loss."""

Head = Tensor | HeadPart
"""The output head [V, D], or this process's part of it."""

Measure = Callable[[Tensor, Any, Any], Tensor]
"""Last hidden states [R, T, D], the model's head (a `Head`, if it is a language model), the batch → what is wanted of
them. As an objective: the loss SUMMED over what the batch's `weight` counts; the engine divides by the weight."""


def cross_entropy_sum(hidden: Tensor, head: Head, labels: Tensor, chunk: int = 512) -> Tensor:
    """Sum of -log p(label) over the positions with a label: hidden [N, D], head [V, D], labels [N].

    The N x V logits exist only `chunk` rows at a time, forward and backward.
    """
    if isinstance(head, HeadPart):
        return part_cross_entropy_sum(hidden, head, labels, IGNORE, chunk)
    if not torch.is_grad_enabled():
        return _loss_sum(hidden, head, labels, chunk)
    return _ChunkedCrossEntropy.apply(hidden, head, labels, chunk)  # pyright: ignore[reportReturnType]


def summed_loss(hidden: Tensor, head: Head, batch: Any) -> Tensor:
    """Sum of -log p(label) of a batch: the objective of pretraining and of instruction data."""
    return cross_entropy_sum(hidden.flatten(0, 1), head, batch.labels.flatten())


def _loss_sum(hidden: Tensor, head: Tensor, labels: Tensor, chunk: int) -> Tensor:
    kept = (labels != IGNORE).nonzero().squeeze(1)
    total = hidden.new_zeros((), dtype=torch.float32)
    for rows in kept.split(chunk):
        logprobs = torch.log_softmax((hidden[rows] @ head.T).float(), dim=1)
        total -= logprobs.gather(1, labels[rows, None]).sum()
    return total


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Gradients are made in the forward pass, chunk by chunk, while the chunk's logits are still in the cache."""

    @staticmethod
    def forward(ctx, hidden: Tensor, head: Tensor, labels: Tensor, chunk: int) -> Tensor:  # pyright: ignore
        kept = (labels != IGNORE).nonzero().squeeze(1)
        total = hidden.new_zeros((), dtype=torch.float32)
        hidden_gradient = torch.zeros_like(hidden)
        head_gradient = torch.zeros_like(head)
        for rows in kept.split(chunk):
            inputs, targets = hidden[rows], labels[rows, None]
            logprobs = torch.log_softmax((inputs @ head.T).float(), dim=1)
            total -= logprobs.gather(1, targets).sum()
            gradient = logprobs.exp_()
            gradient.scatter_add_(1, targets, gradient.new_full(targets.shape, -1.0))
            gradient = gradient.to(hidden.dtype)
            hidden_gradient[rows] = (gradient @ head).to(hidden.dtype)
            head_gradient.addmm_(gradient.T, inputs)
        ctx.save_for_backward(hidden_gradient, head_gradient)
        return total

    @staticmethod
    def backward(ctx, *gradients: Tensor):  # pyright: ignore
        hidden_gradient, head_gradient = ctx.saved_tensors
        return hidden_gradient * gradients[0], head_gradient * gradients[0], None, None


def token_logprobs(logits: Tensor, labels: Tensor) -> Tensor:
    """log p(label) at each position, 0 where the label is IGNORE: logits [R, T, V], labels [R, T] → [R, T]."""
    flat = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORE, reduction="none")
    return -flat.view(labels.shape)


def sequence_logprobs(logprobs: Tensor, mask: Tensor) -> Tensor:
    """Sum over the positions where `mask` holds: [R, T], [R, T] → [R]."""
    return (logprobs * mask).sum(dim=1)


def preference_margin(
    policy_chosen: Tensor, policy_rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor
) -> Tensor:
    """[log pi(c) - log ref(c)] - [log pi(r) - log ref(r)] of each pair, from sequence log-probabilities [P]."""
    return (policy_chosen - reference_chosen) - (policy_rejected - reference_rejected)


def dpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    *,
    beta: float = 0.1,
) -> Tensor:
    """-log sigma(beta · margin) of each pair [P] (DPO, arXiv:2305.18290).

    Llama 3.1 leaves formatting tokens (header, termination) of both responses out of the four sums and adds
    0.2 · NLL of the chosen response (`chosen_nll`).
    """
    return -F.logsigmoid(beta * preference_margin(policy_chosen, policy_rejected, reference_chosen, reference_rejected))


def chosen_nll(logprobs: Tensor, mask: Tensor) -> Tensor:
    """Mean -log p per token of each chosen response, which DPO adds with weight 0.2: [P, T], [P, T] → [P]."""
    return -sequence_logprobs(logprobs, mask) / mask.sum(dim=1).clamp(min=1)


def nca_loss(chosen_reward: Tensor, rejected_reward: Tensor) -> Tensor:
    """NCA of each pair from r = beta · (log pi - log ref) [P] (arXiv:2402.05369)."""
    return -F.logsigmoid(chosen_reward) - 0.5 * F.logsigmoid(-chosen_reward) - 0.5 * F.logsigmoid(-rejected_reward)


def kto_loss(
    reward: Tensor,
    desirable: Tensor,
    divergence: Tensor,
    *,
    desirable_weight: float = 1.33,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """KTO (arXiv:2402.01306) of each response from r = beta · (log pi - log ref) [P], a mask [P], beta · z0 >= 0."""
    good = desirable_weight * (1 - torch.sigmoid(reward - divergence))
    bad = undesirable_weight * (1 - torch.sigmoid(divergence - reward))
    return torch.where(desirable, good, bad)


def reward_loss(chosen: Tensor, rejected: Tensor, *, direct: bool) -> Tensor:
    """Bradley-Terry -log sigma(r_c - r_r) of each pair [P]; `direct` adds Eurus' -log sigma(r_c) - log sigma(-r_r)."""
    loss = -F.logsigmoid(chosen - rejected)
    return loss - F.logsigmoid(chosen) - F.logsigmoid(-rejected) if direct else loss
