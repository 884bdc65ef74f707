import pytest
from pydantic import ValidationError

from modelmill.tasks.errors import RecipeError
from modelmill.tasks.lm.pipeline.config import PipelineConfig
from modelmill.tasks.lm.pipeline.split import stage_parts, unit_costs
from modelmill.tasks.lm.shape import Experts, ModelShape, flops_per_token

LLAMA_405B = ModelShape(
    vocab_size=128_256,
    hidden_size=16_384,
    num_layers=126,
    num_heads=128,
    num_kv_heads=8,
    intermediate_size=53_248,
    max_sequence_length=8192,
    tie_embeddings=False,
)
SPARSE = LLAMA_405B.model_copy(update={"experts": Experts(num_routed=8, intermediate_size=512)})


def test_llama_has_one_layer_fewer_on_the_first_and_last_stage() -> None:
    parts = stage_parts(LLAMA_405B, 16, 8192, "light_ends")
    assert [part.num_layers for part in parts] == [7] + [8] * 14 + [7]
    chunks = stage_parts(LLAMA_405B, 128, 8192, "light_ends")
    assert [part.num_layers for part in chunks] == [0] + [1] * 126 + [0]
    assert [part.has_embedding for part in chunks] == [True] + [False] * 127
    assert [part.has_head for part in chunks] == [False] * 127 + [True]
    assert [part.first for part in chunks[1:-1]] == list(range(126))


def test_a_head_that_costs_three_layers_takes_their_place() -> None:
    shape = LLAMA_405B.model_copy(update={"num_layers": 13})
    layer = unit_costs(shape, 8192, "cost")[1]
    wide = shape.model_copy(update={"vocab_size": int(3 * layer / 6 / shape.hidden_size)})
    assert [part.num_layers for part in stage_parts(wide, 4, 8192, "cost")] == [4, 4, 4, 1]
    assert [part.num_layers for part in stage_parts(wide, 3, 8192, "light_ends")] == [4, 5, 4]


@pytest.mark.parametrize("shape", [LLAMA_405B, SPARSE], ids=["dense", "moe"])
def test_costs_add_up_to_the_model_s(shape: ModelShape) -> None:
    assert sum(unit_costs(shape, 4096, "cost")) == pytest.approx(flops_per_token(shape, 4096), rel=1e-12)


def test_what_cannot_be_cut_is_refused() -> None:
    with pytest.raises(RecipeError, match="at most 128"):
        stage_parts(LLAMA_405B, 129, 8192)
    with pytest.raises(RecipeError, match="tie_embeddings"):
        stage_parts(LLAMA_405B.model_copy(update={"tie_embeddings": True}), 2, 8192)
    with pytest.raises(ValidationError, match="several chunks"):
        PipelineConfig(schedule="1f1b", num_chunks=2)
