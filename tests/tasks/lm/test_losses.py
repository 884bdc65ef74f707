import math

import pytest
import torch
import torch.nn.functional as F

from modelmill.tasks.lm.losses import (
    IGNORE,
    chosen_nll,
    cross_entropy_sum,
    dpo_loss,
    kto_loss,
    nca_loss,
    reward_loss,
    sequence_logprobs,
    token_logprobs,
)


def test_chunked_cross_entropy_equals_torch_in_value_and_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(50, 8, generator=generator, requires_grad=True)
    head = torch.randn(30, 8, generator=generator, requires_grad=True)
    labels = torch.randint(0, 30, (50,), generator=generator)
    labels[::7] = IGNORE
    expected = F.cross_entropy(hidden @ head.T, labels, ignore_index=IGNORE, reduction="sum")
    expected_gradients = torch.autograd.grad(expected, (hidden, head))
    loss = cross_entropy_sum(hidden, head, labels, 16)
    torch.testing.assert_close(loss, expected)
    for gradient, other in zip(torch.autograd.grad(2 * loss, (hidden, head)), expected_gradients, strict=True):
        torch.testing.assert_close(gradient, 2 * other)


def test_cross_entropy_of_huge_logits_is_finite() -> None:
    hidden = torch.tensor([[1000.0, 0.0]])
    loss = cross_entropy_sum(hidden, torch.eye(2), torch.tensor([1]))
    assert float(loss) == pytest.approx(1000)


def test_sequence_logprobs() -> None:
    logits = torch.tensor([[[0.0, math.log(3)], [0.0, 0.0], [5.0, 1.0]]])
    logprobs = token_logprobs(logits, torch.tensor([[1, 0, IGNORE]]))
    torch.testing.assert_close(logprobs, torch.tensor([[math.log(0.75), math.log(0.5), 0.0]]))
    assert float(sequence_logprobs(logprobs, torch.tensor([[1, 0, 1]]))) == pytest.approx(math.log(0.75))
    assert float(chosen_nll(logprobs, torch.tensor([[1, 1, 0]]))) == pytest.approx(-math.log(0.375) / 2)


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def test_dpo_by_hand() -> None:
    # margin = (-3 + 4) - (-5 + 4.5) = 1.5
    loss = dpo_loss(*(torch.tensor([value]) for value in (-3.0, -5.0, -4.0, -4.5)), beta=0.1)
    assert float(loss) == pytest.approx(-math.log(sigmoid(0.15)))


def test_bradley_terry_and_direct_reward_by_hand() -> None:
    chosen, rejected = torch.tensor([0.7]), torch.tensor([-0.2])
    preferred = -math.log(sigmoid(0.9))
    assert float(reward_loss(chosen, rejected, direct=False)) == pytest.approx(preferred)
    direct = -math.log(sigmoid(0.7)) - math.log(sigmoid(0.2))
    assert float(reward_loss(chosen, rejected, direct=True)) == pytest.approx(preferred + direct)


def test_nca_and_kto_by_hand() -> None:
    nca = -math.log(sigmoid(0.4)) - 0.5 * math.log(sigmoid(-0.4)) - 0.5 * math.log(sigmoid(0.3))
    assert float(nca_loss(torch.tensor([0.4]), torch.tensor([-0.3]))) == pytest.approx(nca)
    loss = kto_loss(torch.tensor([0.4, -0.3]), torch.tensor([True, False]), torch.tensor(0.1))
    expected = [1.33 * (1 - sigmoid(0.3)), 1 - sigmoid(0.4)]
    assert loss.tolist() == pytest.approx(expected)
