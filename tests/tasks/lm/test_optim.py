import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed import destroy_process_group, init_process_group
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.multiprocessing.spawn import spawn
from transformers import PreTrainedModel

from modelmill.tasks.errors import ContractError
from modelmill.tasks.lm.model import build_model
from modelmill.tasks.lm.muon import orthogonalised
from modelmill.tasks.lm.optim import build_optimizer, moments, set_learning_rate, set_moments
from modelmill.tasks.lm.settings import OptimizerConfig
from modelmill.tasks.lm.shape import Experts, ModelShape
from modelmill.tasks.loopback import stay_on_loopback

SHAPE = ModelShape(
    vocab_size=64,
    hidden_size=24,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    intermediate_size=40,
    max_sequence_length=16,
    experts=Experts(num_routed=4, num_shared=1, top_k=2, intermediate_size=12),
)
MUON = OptimizerConfig(kind="muon")


def give_gradients(model: nn.Module, seed: int) -> None:
    """The same gradients on any number of processes."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        whole = torch.randn(parameter.shape, generator=generator)
        if isinstance(parameter, DTensor):
            whole = distribute_tensor(whole, parameter.device_mesh, parameter.placements)
        parameter.grad = whole


def stepped(model: PreTrainedModel, config: OptimizerConfig, steps: int = 2) -> torch.optim.Optimizer:
    optimizer = build_optimizer(model, config)
    for step in range(steps):
        set_learning_rate(optimizer, 0.01)
        give_gradients(model, step)
        optimizer.step()
    return optimizer


def test_muon_is_torch_s_on_whole_matrices_and_on_each_expert() -> None:
    model = build_model(SHAPE, seed=1)
    oracle = copy.deepcopy(model)
    stepped(model, MUON)
    found, before = dict(model.named_parameters()), dict(oracle.named_parameters())

    def expected(matrix: Tensor, gradients: list[Tensor]) -> Tensor:
        parameter = nn.Parameter(matrix.clone())
        library = torch.optim.Muon([parameter], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
        for gradient in gradients:
            parameter.grad = gradient.clone()
            library.step()
        return parameter.detach()

    gradients: dict[str, list[Tensor]] = {name: [] for name in before}
    for seed in range(2):
        give_gradients(oracle, seed)
        for name, parameter in before.items():
            gradients[name].append(parameter.grad)  # pyright: ignore
    name = "model.layers.1.self_attn.k_proj.weight"
    # the library computes in bfloat16, we in float32 on a CPU: 0.01 · 0.2 · sqrt(24) · 2^-7
    tolerance = 3e-4
    assert torch.allclose(found[name], expected(before[name].detach(), gradients[name]), atol=tolerance)
    name = "model.layers.1.mlp.experts.gate_up_proj"
    for expert in (0, 3):
        for half in (slice(0, 12), slice(12, 24)):
            one = expected(before[name].detach()[expert, half], [g[expert, half] for g in gradients[name]])
            assert torch.allclose(found[name][expert, half], one, atol=tolerance)


def test_updates_are_orthogonal_and_as_large_as_adamw_s() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((3, 40, 24), (3, 24, 40)):
        made = orthogonalised(torch.randn(shape, generator=generator), 5)
        values = torch.linalg.svdvals(made)
        assert 0.6 < values.min() < values.max() < 1.3
        size = made.square().mean().sqrt() * 0.2 * math.sqrt(40)
        assert float(size) == pytest.approx(0.2, rel=0.2)


def test_groups_say_who_is_trained_how() -> None:
    model = build_model(SHAPE, seed=1)
    optimizer = build_optimizer(model, OptimizerConfig(kind="muon", mup_base_width=6, decay_embeddings=False))
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    found = {name: groups[id(parameter)] for name, parameter in model.named_parameters()}
    assert {name for name, group in found.items() if group["muon"]} == {
        name for name, p in model.named_parameters() if ".layers." in name and p.ndim > 1 and "gate.weight" not in name
    }
    assert found["model.layers.1.mlp.experts.gate_up_proj"]["parts"] == 2
    assert found["model.layers.0.mlp.up_proj.weight"]["rate_factor"] == 0.5
    assert found["model.layers.1.mlp.gate.weight"]["rate_factor"] == 0.25
    assert found["model.embed_tokens.weight"]["weight_decay"] == found["model.norm.weight"]["weight_decay"] == 0
    # Llama: a step takes weight decay · learning rate of the weights, whatever the gradient
    embedding = build_model(SHAPE, seed=1)
    head: Any = embedding.model.embed_tokens.weight  # pyright: ignore
    before = head.detach().clone()
    optimizer = build_optimizer(embedding, OptimizerConfig())
    set_learning_rate(optimizer, 0.01)
    head.grad = torch.zeros_like(head)
    optimizer.step()
    assert torch.allclose(head, before * (1 - 0.1 * 0.01), atol=1e-8)


@pytest.mark.parametrize("config", [MUON, OptimizerConfig(state_precision="bf16")])
def test_moments_of_every_optimiser_go_on(config: OptimizerConfig) -> None:
    whole, parts = build_model(SHAPE, seed=1), build_model(SHAPE, seed=1)
    stepped(whole, config, steps=2)
    kept = moments(stepped(parts, config, steps=1), parts)
    later = build_optimizer(parts, config)
    set_moments(later, parts, kept)
    set_learning_rate(later, 0.01)
    give_gradients(parts, 1)
    later.step()
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(one, other)
    other_kind = OptimizerConfig() if config.kind == "muon" else MUON
    with pytest.raises(ContractError, match=r"same optimizer\.kind"):
        set_moments(build_optimizer(parts, other_kind), parts, kept)


def test_moments_in_bfloat16_take_half_the_memory_and_train_alike() -> None:
    half, full = build_model(SHAPE, seed=1), build_model(SHAPE, seed=1)
    optimizer = stepped(half, OptimizerConfig(state_precision="bf16"))
    stepped(full, OptimizerConfig())
    kept = moments(optimizer, half)
    assert {tensor.dtype for name, tensor in kept.items() if not name.endswith("step")} == {torch.bfloat16}
    for one, other in zip(half.parameters(), full.parameters(), strict=True):
        assert torch.allclose(one, other, atol=5e-4)


def _sharded(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    stay_on_loopback()
    init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    model = build_model(SHAPE, seed=1)
    mesh = init_device_mesh("cpu", (2,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    stepped(model, MUON)
    tensors = {name: p.full_tensor().detach() for name, p in model.named_parameters()}  # pyright: ignore
    if rank == 0:
        torch.save(tensors, f"{folder}/weights.pt")
    destroy_process_group()


def test_two_processes_that_hold_shards_do_the_same_step(tmp_path: Path) -> None:
    spawn(_sharded, (str(tmp_path),), nprocs=2)
    model = build_model(SHAPE, seed=1)
    stepped(model, MUON)
    found = torch.load(tmp_path / "weights.pt")
    for name, parameter in model.named_parameters():
        assert torch.allclose(found[name], parameter, atol=1e-6), name
