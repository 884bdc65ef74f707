import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from modelmill.tasks.errors import InputError
from modelmill.tasks.lm.checkpoints import average_weights, export, save_snapshot, snapshots, weights
from modelmill.tasks.lm.data import open_tokens
from modelmill.tasks.lm.model import (
    build_model,
    folded_multiplier,
    hidden_states,
    load_model,
    output_head,
    read_shape,
    set_context,
)
from modelmill.tasks.lm.optim import build_optimizer, set_learning_rate
from modelmill.tasks.lm.settings import InitialisationConfig, OptimizerConfig
from modelmill.tasks.lm.shape import (
    Experts,
    ModelShape,
    RopeScaling,
    count_matmul_parameters,
    count_parameters,
    flops_per_token,
)

DENSE = ModelShape(
    vocab_size=384,
    hidden_size=32,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    intermediate_size=48,
    max_sequence_length=64,
)
SPARSE = DENSE.model_copy(
    update={
        "num_kv_heads": 2,
        "tie_embeddings": False,
        "experts": Experts(num_routed=4, num_shared=1, top_k=2, intermediate_size=16, first_dense_layers=1),
    }
)


@pytest.mark.parametrize("shape", [DENSE, SPARSE], ids=["llama", "dots1"])
def test_parameters_are_counted_as_built(shape: ModelShape) -> None:
    model = build_model(shape, seed=0)
    assert count_parameters(shape) == sum(parameter.numel() for parameter in model.parameters())


def test_flops_count_active_matrices_head_and_attention() -> None:
    attention, head = 2 * 32 * 16 * 3, 384 * 32
    assert count_matmul_parameters(DENSE) == 2 * (attention + 3 * 32 * 48) + head
    assert flops_per_token(DENSE, 64) == 6 * count_matmul_parameters(DENSE) + 12 * 2 * 32 * 64
    router, expert = 32 * 4, 3 * 32 * 16
    dense_layer, sparse_layer = 4 * 32 * 32 + 3 * 32 * 48, 4 * 32 * 32 + router + 3 * expert
    assert count_matmul_parameters(SPARSE) == dense_layer + sparse_layer + head


def test_weights_depend_on_seed_and_name_only() -> None:
    one, deeper = build_model(DENSE, seed=7), build_model(DENSE.model_copy(update={"num_layers": 3}), seed=7)
    name = "model.layers.1.mlp.up_proj.weight"
    torch.rand(3)
    assert torch.equal(weights(one)[name], weights(deeper)[name])
    assert torch.equal(weights(one)[name], weights(build_model(DENSE, seed=7))[name])
    assert not torch.equal(weights(one)[name], weights(build_model(DENSE, seed=8))[name])


def test_initialisation_scales() -> None:
    shape = DENSE.model_copy(update={"hidden_size": 128, "vocab_size": 512})
    initialisation = InitialisationConfig(std=0.04, mup_base_width=32)
    tensors = weights(build_model(shape, seed=1, initialisation=initialisation))
    assert float(tensors["model.embed_tokens.weight"].std()) == pytest.approx(0.04, rel=0.05)
    assert float(tensors["model.layers.0.mlp.up_proj.weight"].std()) == pytest.approx(0.02, rel=0.05)
    assert float(tensors["model.layers.0.self_attn.o_proj.weight"].std()) == pytest.approx(0.01, rel=0.05)
    assert (tensors["model.norm.weight"] == 1).all()


MINICPM = InitialisationConfig(
    std=0.1, scale_residual=False, mup_base_width=8, scale_head=True, scale_emb=12.0, scale_depth=1.4
)


def unfolded(folded: Any) -> Any:
    """The same model as MiniCPM has it: smaller weights, and multipliers in the forward pass."""
    model = copy.deepcopy(folded)
    delattr(model.config, "folded_multipliers")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter /= folded_multiplier(name, folded)

    def times(module: Any, factor: float) -> None:
        module.register_forward_hook(lambda _, __, output: output * factor)

    times(model.model.embed_tokens, 12.0)
    times(model.model.norm, 8 / 32)
    for layer in model.model.layers:
        times(layer.self_attn.o_proj, 1.4 / 2**0.5)
        times(layer.mlp, 1.4 / 2**0.5)
    return model


@pytest.mark.parametrize("shape", [DENSE, SPARSE], ids=["llama", "dots1"])
def test_folded_multipliers_train_like_multipliers_of_the_forward_pass(shape: ModelShape) -> None:
    model: Any = build_model(shape, seed=5, initialisation=MINICPM)
    assert model.config.folded_multipliers.get("final_norm", 1 / 12) == 1 / (48 if shape.tie_embeddings else 12)
    ids, positions = torch.randint(0, 384, (4, 33)), torch.arange(32).expand(4, -1)
    curves = []
    for each in (unfolded(model), model):
        optimizer = build_optimizer(each, OptimizerConfig(eps=1e-14, mup_base_width=8))
        set_learning_rate(optimizer, 1e-2)
        losses = []
        for _ in range(6):
            logits = hidden_states(each, ids[:, :-1], positions) @ output_head(each).T
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
        curves.append(losses)
    assert curves[1] == pytest.approx(curves[0], rel=2e-4)
    assert curves[0][-1] < curves[0][0] - 0.3


@pytest.mark.parametrize("shape", [DENSE, SPARSE], ids=["llama", "dots1"])
def test_documents_in_one_row_do_not_see_each_other(shape: ModelShape) -> None:
    model = build_model(shape, seed=0).eval()
    first, second = torch.randint(16, 384, (1, 9)), torch.randint(16, 384, (1, 14))
    together = torch.cat([first, second], dim=1)
    positions = torch.cat([torch.arange(9), torch.arange(14)])[None]
    with torch.no_grad():
        packed = hidden_states(model, together, positions)
        alone = [hidden_states(model, part, torch.arange(part.shape[1])[None]) for part in (first, second)]
    torch.testing.assert_close(packed, torch.cat(alone, dim=1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [DENSE, SPARSE], ids=["llama", "dots1"])
def test_export_opens_with_transformers_and_gives_the_same_logits(
    shape: ModelShape, tokens_folder: Path, tmp_path: Path
) -> None:
    tokens = open_tokens(tokens_folder)
    model = build_model(shape, seed=3, special_tokens=tokens.special_tokens).eval()
    scaling = RopeScaling(kind="llama3", factor=4.0, original_length=32)
    set_context(model, rope_theta=50_000.0, rope_scaling=scaling, max_sequence_length=128)
    export(model, tokens.tokenizer, tmp_path / "model")
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    ids = torch.randint(16, 384, (2, 100))
    with torch.no_grad():
        ours = hidden_states(model, ids, torch.arange(100).expand(2, -1)) @ output_head(model).T
        torch.testing.assert_close(ours, reloaded(ids).logits, atol=1e-5, rtol=1e-5)
    assert AutoTokenizer.from_pretrained(tmp_path / "model").encode("the mill", add_special_tokens=False)
    changed = shape.model_copy(update={"rope_theta": 50_000.0, "rope_scaling": scaling, "max_sequence_length": 128})
    assert read_shape(tmp_path / "model") == changed
    assert reloaded.config.eos_token_id == 1
    again = load_model(tmp_path / "model", rope_theta=1e6, max_sequence_length=256)
    assert read_shape(tmp_path / "model").rope_theta == 50_000.0
    assert again.config.max_position_embeddings == 256


def test_average_is_the_mean_of_the_files(tmp_path: Path) -> None:
    models = [build_model(SPARSE, seed=seed) for seed in range(3)]
    for step, model in enumerate(models):
        save_snapshot(tmp_path, step, model)
    average = dict(average_weights(snapshots(tmp_path)))
    assert average.keys() == weights(models[0]).keys()
    for name, tensor in average.items():
        expected = torch.stack([weights(model)[name].double() for model in models]).mean(0)
        torch.testing.assert_close(tensor.double(), expected, atol=1e-7, rtol=1e-6)
    with pytest.raises(InputError, match="no checkpoint to average"):
        next(average_weights([]))


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config\.json"):
        load_model(tmp_path)
