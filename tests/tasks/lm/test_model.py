from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from modelmill.tasks.errors import InputError
from modelmill.tasks.lm.checkpoints import average_weights, export, save_snapshot, snapshots, weights
from modelmill.tasks.lm.data import open_tokens
from modelmill.tasks.lm.model import build_model, hidden_states, load_model, output_head, read_shape, set_context
from modelmill.tasks.lm.settings import InitialisationConfig
from modelmill.tasks.lm.shape import Experts, ModelShape, count_matmul_parameters, count_parameters, flops_per_token

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
    set_context(model, rope_theta=50_000.0, max_sequence_length=128)
    export(model, tokens.tokenizer, tmp_path / "model")
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    ids = torch.randint(16, 384, (2, 100))
    with torch.no_grad():
        ours = hidden_states(model, ids, torch.arange(100).expand(2, -1)) @ output_head(model).T
        torch.testing.assert_close(ours, reloaded(ids).logits, atol=1e-5, rtol=1e-5)
    assert AutoTokenizer.from_pretrained(tmp_path / "model").encode("the mill", add_special_tokens=False)
    changed = shape.model_copy(update={"rope_theta": 50_000.0, "max_sequence_length": 128})
    assert read_shape(tmp_path / "model") == changed
    assert reloaded.config.eos_token_id == 1
    again = load_model(tmp_path / "model", rope_theta=1e6, max_sequence_length=256)
    assert read_shape(tmp_path / "model").rope_theta == 50_000.0
    assert again.config.max_position_embeddings == 256


def test_average_is_the_mean_of_the_files(tmp_path: Path) -> None:
    models = [build_model(SPARSE, seed=seed) for seed in range(3)]
    for step, model in enumerate(models):
        save_snapshot(tmp_path, step, model)
    average = average_weights(snapshots(tmp_path))
    for name, tensor in average.items():
        expected = torch.stack([weights(model)[name].double() for model in models]).mean(0)
        torch.testing.assert_close(tensor.double(), expected, atol=1e-7, rtol=1e-6)
    with pytest.raises(InputError, match="no checkpoint to average"):
        average_weights([])


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config\.json"):
        load_model(tmp_path)
