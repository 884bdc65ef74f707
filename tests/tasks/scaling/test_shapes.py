import pytest

from modelmill.tasks.errors import RecipeError
from modelmill.tasks.scaling.shapes import ladder, shape_for, smallest_shape


@pytest.mark.parametrize("vocab_size", [512, 4096, 32_000])
@pytest.mark.parametrize("factor", [1, 3, 10, 300])
def test_shape_is_near_and_whole(vocab_size: int, factor: int) -> None:
    wanted = 1.3 * smallest_shape(vocab_size).parameters * factor
    shape = shape_for(wanted, vocab_size)
    assert 0.6 < shape.parameters / wanted < 1.6
    assert shape.hidden_size % shape.num_heads == 0
    assert shape.hidden_size // shape.num_heads in (32, 64, 128)
    assert shape.num_heads % shape.num_kv_heads == 0
    assert shape.num_layers >= 2


@pytest.mark.parametrize(("parameters", "tied"), [(1e9, True), (8e9, False), (7e10, False), (4.05e11, False)])
def test_large_shapes_resemble_what_is_published(parameters: float, tied: bool) -> None:
    shape = shape_for(parameters, 128_256, tied)
    assert shape.parameters == pytest.approx(parameters, rel=0.05)
    assert 50 < shape.hidden_size / shape.num_layers < 200


def test_counts_against_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    for tied in (True, False):
        shape = shape_for(1e6, 1024, tied)
        config = transformers.LlamaConfig(
            vocab_size=shape.vocab_size,
            hidden_size=shape.hidden_size,
            num_hidden_layers=shape.num_layers,
            num_attention_heads=shape.num_heads,
            num_key_value_heads=shape.num_kv_heads,
            intermediate_size=shape.intermediate_size,
            tie_word_embeddings=tied,
        )
        with torch.device("meta"):
            model = transformers.LlamaForCausalLM(config)
        assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
        assert shape.compute_parameters == shape.body_parameters + shape.vocab_size * shape.hidden_size


def test_ladder_ascends_within_its_bounds() -> None:
    sizes = [shape.parameters for shape in ladder(1e6, 2e7, 4096)]
    assert len(sizes) >= 8
    assert sizes == sorted(set(sizes))
    assert sizes[0] >= 1e6
    assert sizes[-1] <= 2e7


def test_size_below_the_vocabulary_is_refused() -> None:
    with pytest.raises(RecipeError, match="the smallest model has"):
        shape_for(1e6, 128_256)
