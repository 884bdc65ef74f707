import pytest

from modelmill.tasks.errors import RecipeError
from modelmill.tasks.lm.shape import count_parameters
from modelmill.tasks.scaling.shapes import body_parameters, ladder, shape_for, smallest_shape


@pytest.mark.parametrize("vocab_size", [512, 4096, 32_000])
@pytest.mark.parametrize("factor", [1, 3, 10, 300])
def test_shape_is_near_and_whole(vocab_size: int, factor: int) -> None:
    wanted = 1.3 * count_parameters(smallest_shape(vocab_size)) * factor
    shape = shape_for(wanted, vocab_size)
    assert 0.6 < count_parameters(shape) / wanted < 1.6
    assert shape.hidden_size % shape.num_heads == 0
    assert shape.hidden_size // shape.num_heads in (32, 64, 128)
    assert shape.num_heads % shape.num_kv_heads == 0
    assert shape.num_layers >= 2


@pytest.mark.parametrize(("parameters", "tied"), [(1e9, True), (8e9, False), (7e10, False), (4.05e11, False)])
def test_large_shapes_resemble_what_is_published(parameters: float, tied: bool) -> None:
    shape = shape_for(parameters, 128_256, tied)
    assert count_parameters(shape) == pytest.approx(parameters, rel=0.05)
    assert 50 < shape.hidden_size / shape.num_layers < 200


def test_body_leaves_out_what_grows_with_the_vocabulary() -> None:
    for tied in (True, False):
        shape = shape_for(1e6, 1024, tied)
        assert body_parameters(shape) == body_parameters(shape.model_copy(update={"vocab_size": 50_000}))


def test_ladder_ascends_within_its_bounds() -> None:
    sizes = [count_parameters(shape) for shape in ladder(1e6, 2e7, 4096)]
    assert len(sizes) >= 8
    assert sizes == sorted(set(sizes))
    assert sizes[0] >= 1e6
    assert sizes[-1] <= 2e7


def test_size_below_the_vocabulary_is_refused() -> None:
    with pytest.raises(RecipeError, match="the smallest model has"):
        shape_for(1e6, 128_256)
