import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from modelmill.tasks.lm.data import RowBatches, document_mixture, open_tokens
from modelmill.tasks.lm.engine import train
from modelmill.tasks.lm.evaluate import validation_set
from modelmill.tasks.lm.losses import summed_loss
from modelmill.tasks.lm.model import build_model, hidden_states, measure_batch
from modelmill.tasks.lm.moe import balance_loss, expert_loads, max_violation, open_routers, router_modules
from modelmill.tasks.lm.optim import build_optimizer
from modelmill.tasks.lm.parallel.ranks import Ranks
from modelmill.tasks.lm.plan import StepPoint
from modelmill.tasks.lm.report import TrainReport
from modelmill.tasks.lm.settings import ExpertBalance, OptimizerConfig, TrainSettings
from modelmill.tasks.lm.shape import Experts, ModelShape
from tests.tasks.lm.tiny_run import PLAN

SHAPE = ModelShape(
    vocab_size=384,
    hidden_size=32,
    num_layers=3,
    num_heads=2,
    num_kv_heads=2,
    intermediate_size=48,
    max_sequence_length=64,
    experts=Experts(num_routed=8, num_shared=1, top_k=2, intermediate_size=16),
)


def first_batch(tokens_folder: Path):
    batches = RowBatches(document_mixture(open_tokens(tokens_folder), seed=1))
    return batches.batch(StepPoint(0, 0, 0.0, 64, 4, 0))


def trained(tokens_folder: Path, balance: ExpertBalance, **changes) -> tuple[PreTrainedModel, TrainReport]:
    model = build_model(SHAPE, seed=1)
    batches = RowBatches(document_mixture(open_tokens(tokens_folder), seed=1))
    settings = TrainSettings(log_every_steps=5, balance=balance, **changes)
    return model, train(model, build_optimizer(model, OptimizerConfig()), PLAN, batches, settings)


def formula(scores: Tensor, top_k: int) -> Tensor:
    """L_bal of one row, as it is written in DeepSeek-V3: scores [T, E]."""
    num_tokens, num_experts = scores.shape
    total = torch.zeros(())
    for expert in range(num_experts):
        among = sum(float(expert in scores[t].topk(top_k).indices.tolist()) for t in range(num_tokens))
        share = sum(scores[t, expert] / scores[t].sum() for t in range(num_tokens)) / num_tokens
        total = total + num_experts / (top_k * num_tokens) * among * share
    return total


def test_the_balance_loss_is_the_published_formula_of_each_row() -> None:
    logits = torch.randn(3 * 7, 8, generator=torch.Generator().manual_seed(0))
    expected = sum(formula(row.sigmoid(), 2) for row in logits.view(3, 7, 8))
    assert balance_loss(logits, 3, 2) == pytest.approx(float(expected), rel=1e-5)
    even = torch.eye(8).repeat(2, 1) * 4
    assert balance_loss(even, 1, 1) == pytest.approx(1)


def test_the_balance_loss_reaches_the_gradient_with_its_weight(tokens_folder: Path) -> None:
    batch, plain = first_batch(tokens_folder), build_model(SHAPE, seed=1)
    reference = copy.deepcopy(plain)
    logits: list[Tensor] = []
    for router in router_modules(reference):
        router.register_forward_hook(lambda module, inputs, output: logits.append(output[0]))
    loss = measure_batch(reference, batch, summed_loss) / batch.weight
    losses = torch.stack([balance_loss(each, 4, 2) for each in logits])
    (loss + 0.5 * losses.sum() / 4).backward()
    with open_routers([plain], ExpertBalance(sequence_loss=0.5), Ranks()) as routers:
        routers.begin_step(4)
        for part in batch.split(2):
            (measure_batch(plain, part, summed_loss) / batch.weight).backward()
        figures = routers.end_step(0.0)
    for one, other in zip(reference.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-6)  # pyright: ignore
    assert float(figures["balance_loss"]) == pytest.approx(float(losses.detach().mean()) / 4)


def test_the_bias_follows_the_loads_and_evens_them(tokens_folder: Path, tmp_path: Path) -> None:
    _, without = trained(tokens_folder, ExpertBalance(bias_rate=0, sequence_loss=0), num_pieces=2)
    balance = ExpertBalance(bias_rate=0.02, bias_frozen_share=0.25)
    model, report = trained(tokens_folder, balance)
    for kind in ("selective", "full"):
        assert trained(tokens_folder, balance, activation_checkpointing=kind)[1].curve == report.curve
    assert report.curve[2]["max_violation"] < 0.8 * without.curve[2]["max_violation"]
    assert len(report.curve[-1]["max_violation_by_layer"]) == 2
    biases = torch.stack([router.e_score_correction_bias for router in router_modules(model)])
    # twenty steps, frozen for the last five: each of the others moved every bias by one rate or not at all
    assert torch.allclose(biases / 0.02, (biases / 0.02).round(), atol=1e-3)
    assert 0.02 * 3 < biases.abs().max() <= 0.02 * 15 + 1e-6
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(router_modules(again)[1].e_score_correction_bias, biases[1])


def test_loads_are_counted_by_domain_and_all_tokens_are_routed(tokens_folder: Path) -> None:
    model = build_model(SHAPE, seed=1)
    held_out = validation_set(open_tokens(tokens_folder), sequence_length=64, max_tokens_per_domain=512)
    found = expert_loads(model, held_out, Ranks())
    assert set(found["domains"]) == {"prose", "counts"}
    for domain in found["domains"].values():
        assert torch.tensor(domain["load"]).sum(1).tolist() == pytest.approx([2, 2])
    assert max_violation(torch.tensor([[4, 0, 0, 0], [1, 1, 1, 1]])).tolist() == [3, 0]
    assert not any(router._forward_hooks for router in router_modules(model))


def test_routers_stay_in_float32_under_autocast(tokens_folder: Path) -> None:
    model, seen = build_model(SHAPE, seed=1), []
    with open_routers([model], ExpertBalance(), Ranks()), torch.autocast("cpu", torch.bfloat16):
        router = router_modules(model)[0]
        handle = router.register_forward_hook(lambda module, inputs, output: seen.append(output[0]))
        batch = first_batch(tokens_folder)
        hidden_states(model, batch.input_ids, batch.position_ids).sum().backward()
        handle.remove()
    assert not torch.equal(seen[0], seen[0].bfloat16().float())
    assert "forward" not in vars(router)
