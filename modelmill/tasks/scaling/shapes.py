"""A number of parameters and a vocabulary → the shape of a Llama model: width, depth, heads, feed-forward size.

One ladder for proxies and for the real run, so that the law is measured on the family of shapes it is used for.
"""

import math

from modelmill.tasks.errors import RecipeError
from modelmill.tasks.lm.shape import ModelShape, count_parameters

# From this width: the width of a head, and the step between widths. Inference engines accept no head narrower than
# 32 on CPU; from 2,048 a step is eight heads, so that eight key-value heads (Llama 3) divide them.
_RUNGS = ((2048, 128, 1024), (1024, 64, 128), (256, 64, 64), (32, 32, 32))
_GROUPED_FROM = 2048
_POSITIONS = 8192  # what the configuration allows; costs nothing
_MAX_HIDDEN = 32_768
_MIN_LAYERS, _MAX_LAYERS = 2, 256  # copying from the context takes two layers of attention


def body_parameters(shape: ModelShape) -> int:
    """Parameters without embedding and output head: the N of Kaplan et al. and of DeepSeek's 6 N1."""
    return count_parameters(shape) - shape.vocab_size * shape.hidden_size * (1 if shape.tie_embeddings else 2)


def shape_for(parameters: float, vocab_size: int, tied: bool = True) -> ModelShape:
    """The shape of the ladder nearest to `parameters` (all of them, embeddings included).

    Width over depth aims at 24 for 1e5 body parameters and grows to 128 at 1e10 (Llama 3: 128 at 8B, 102 at 70B, 130 at
    405B). A quarter of the parameters too many or too few counts as much as a ratio that is off by a factor of e; a
    ratio is never off by more than 3, since such shapes do not lie on their neighbours' law.

    Raises:
        RecipeError: even the smallest shape with this vocabulary is more than half as large again.
    """
    candidates = [shape for hidden in _widths() for shape in _depths(hidden, parameters, vocab_size, tied)]
    best = min(candidates, key=lambda shape: _distance(shape, parameters))
    if count_parameters(best) > 1.5 * parameters:
        raise RecipeError(
            f"found a size of {parameters:,.0f} parameters with a vocabulary of {vocab_size:,}; the smallest model has "
            f"{count_parameters(best):,}. Choose a larger size or a smaller vocabulary."
        )
    return best


def widened(shape: ModelShape, factor: int) -> ModelShape:
    """The same depth and head size, `factor` times as wide: a member of muP's family, not of the ladder."""
    names = ("hidden_size", "num_heads", "num_kv_heads", "intermediate_size")
    return shape.model_copy(update={name: getattr(shape, name) * factor for name in names})


def smallest_shape(vocab_size: int, tied: bool = True) -> ModelShape:
    """The first rung of the ladder."""
    return _shape(_RUNGS[-1][0], _MIN_LAYERS, vocab_size, tied)


def ladder(low: float, high: float, vocab_size: int, tied: bool = True, per_octave: int = 6) -> list[ModelShape]:
    """Distinct shapes with low <= parameters <= high, ascending."""
    num_points = max(2, math.ceil(per_octave * math.log2(high / low)) + 1)
    sizes = [low * (high / low) ** (index / (num_points - 1)) for index in range(num_points)]
    by_size = {count_parameters(shape): shape for shape in (shape_for(size, vocab_size, tied) for size in sizes)}
    return [by_size[size] for size in sorted(by_size) if low <= size <= high]


def _widths() -> list[int]:
    widths = [_RUNGS[-1][0]]
    while widths[-1] < _MAX_HIDDEN:
        widths.append(widths[-1] + _rung(widths[-1])[2])
    return widths


def _depths(hidden: int, parameters: float, vocab_size: int, tied: bool) -> list[ModelShape]:
    """The depths at this width that come nearest to `parameters`, within a factor of 3 of the aimed ratio."""
    one, two = (count_parameters(_shape(hidden, layers, vocab_size, tied)) for layers in (1, 2))
    exact = 1 + (parameters - one) / (two - one)
    middle = hidden / _aim(parameters - vocab_size * hidden)
    shallowest, deepest = max(_MIN_LAYERS, round(middle / 3)), min(_MAX_LAYERS, max(_MIN_LAYERS, round(middle * 3)))
    depths = {min(max(shallowest, value), deepest) for value in (math.floor(exact), math.ceil(exact))}
    return [_shape(hidden, layers, vocab_size, tied) for layers in sorted(depths)]


def _shape(hidden: int, layers: int, vocab_size: int, tied: bool) -> ModelShape:
    heads = hidden // _rung(hidden)[1]
    kv_heads = 8 if hidden >= _GROUPED_FROM else heads
    # 8/3 of the width keeps a gated feed-forward at the cost of a plain one of 4; in steps that kernels like.
    step = 32 if hidden < _GROUPED_FROM else 256
    intermediate = round(hidden * 8 / 3 / step) * step
    return ModelShape(
        vocab_size=vocab_size,
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        intermediate_size=intermediate,
        max_sequence_length=_POSITIONS,
        tie_embeddings=tied,
    )


def _rung(hidden: int) -> tuple[int, int, int]:
    return next(rung for rung in _RUNGS if hidden >= rung[0])


def _aim(body_parameters: float) -> float:
    return 24 * min(max(body_parameters, 1e5) / 1e5, 1e5) ** (math.log(128 / 24) / math.log(1e5))


def _distance(shape: ModelShape, parameters: float) -> float:
    off_ratio = abs(math.log(shape.hidden_size / shape.num_layers / _aim(body_parameters(shape))))
    return abs(math.log(count_parameters(shape) / parameters)) / 0.25 + off_ratio
