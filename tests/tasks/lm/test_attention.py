"""Attention by document against transformers' attention with a dense mask."""

import pytest
import torch
from torch import Tensor

from modelmill.tasks.lm.attention import Documents
from modelmill.tasks.lm.model import build_model, hidden_states
from modelmill.tasks.lm.shape import Experts, ModelShape

GROUPED = ModelShape(
    vocab_size=96,
    hidden_size=32,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    intermediate_size=48,
    max_sequence_length=64,
)
SPARSE = GROUPED.model_copy(update={"experts": Experts(num_routed=4, num_shared=1, top_k=2, intermediate_size=16)})
POSITIONS = torch.stack(
    [torch.cat([torch.arange(length) for length in lengths]) for lengths in ((5, 1, 14), (20,), (1, 19))]
)


def test_lengths_of_documents() -> None:
    assert Documents(POSITIONS).lengths == [5, 1, 14, 20, 1, 19]
    assert Documents(torch.arange(3, 9)[None]).lengths == [6]  # a row may hold the rest of a document


@pytest.mark.parametrize("shape", [GROUPED, SPARSE], ids=["llama", "dots1"])
def test_states_and_gradients_are_those_of_a_dense_mask(shape: ModelShape) -> None:
    tokens = torch.randint(0, 96, POSITIONS.shape, generator=torch.Generator().manual_seed(0))

    def outcome(*, dense: bool) -> tuple[Tensor, Tensor]:
        model = build_model(shape, seed=1)
        if dense:
            model.set_attn_implementation("sdpa")
        hidden = hidden_states(model, tokens, POSITIONS)
        hidden.square().sum().backward()
        return hidden.detach(), model.model.layers[0].self_attn.k_proj.weight.grad  # pyright: ignore

    for ours, theirs in zip(outcome(dense=False), outcome(dense=True), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
