"""A model's shape and a number of stages → which layers, and which ends, each stage holds."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from modelmill.tasks.errors import RecipeError
from modelmill.tasks.lm.shape import ModelShape, flops_per_token


@dataclass(frozen=True)
class StagePart:
    """What one stage holds: layers `first` up to but without `end`, and perhaps the embedding or norm and head."""

    index: int
    first: int
    end: int
    has_embedding: bool
    has_head: bool

    @property
    def num_layers(self) -> int:
        return self.end - self.first


def stage_parts(
    shape: ModelShape, num_stages: int, sequence_length: int, balance: Literal["cost", "light_ends"] = "cost"
) -> list[StagePart]:
    """Contiguous parts whose costliest is as cheap as it can be; among such cuts, the most even one.

    Raises:
        RecipeError: more stages than layers and ends, or a tied embedding, which would lie on two processes.
    """
    if num_stages > 1 and shape.tie_embeddings:
        raise RecipeError(
            "found tie_embeddings with a pipeline: one matrix would lie on the first and on the last stage; "
            "set tie_embeddings: false, or use no pipeline"
        )
    if num_stages > shape.num_layers + 2:
        raise RecipeError(
            f"found {num_stages} pipeline stages (processes times chunks) for {shape.num_layers} layers, embedding and "
            f"head; expected at most {shape.num_layers + 2}"
        )
    cuts = _even_cuts(unit_costs(shape, sequence_length, balance), num_stages)
    return [
        StagePart(
            index,
            max(start - 1, 0),
            min(end - 1, shape.num_layers),
            has_embedding=start == 0,
            has_head=end == shape.num_layers + 2,
        )
        for index, (start, end) in enumerate(pairwise(cuts))
    ]


def unit_costs(shape: ModelShape, sequence_length: int, balance: Literal["cost", "light_ends"]) -> list[float]:
    """Training FLOPs per token of embedding, layers and head, in this order; a lookup computes nothing."""
    head = 6.0 * shape.vocab_size * shape.hidden_size
    layers = _layer_costs(shape, sequence_length)
    if balance == "light_ends":
        return [layers[0], *layers, layers[-1]]
    return [0.0, *layers, head]


def _layer_costs(shape: ModelShape, sequence_length: int) -> list[float]:
    """FLOPs of each layer: what a model with one more of its kind costs more."""

    def flops(num_layers: int, dense: int) -> float:
        experts = shape.experts and shape.experts.model_copy(update={"first_dense_layers": dense})
        return flops_per_token(shape.model_copy(update={"num_layers": num_layers, "experts": experts}), sequence_length)

    num_dense = shape.num_layers
    if shape.experts:
        num_dense = min(shape.experts.first_dense_layers, shape.num_layers)
    dense, other = flops(1, 1) - flops(0, 0), flops(1, 0) - flops(0, 0)
    return [dense] * num_dense + [other] * (shape.num_layers - num_dense)


def _even_cuts(costs: list[float], num_parts: int) -> list[int]:
    """Borders of parts with the smallest possible maximum, then the smallest sum of squares: [0, ..., len(costs)]."""
    sums = [0.0]
    for cost in costs:
        sums.append(sums[-1] + cost)
    unreachable = (float("inf"), float("inf"))
    best = [(0.0, 0.0)] + [unreachable] * len(costs)
    froms: list[list[int]] = []
    for _ in range(num_parts):
        following, origin = [unreachable] * len(best), [0] * len(best)
        for end in range(1, len(best)):
            for start in range(end):
                cost = sums[end] - sums[start]
                value = (max(best[start][0], cost), best[start][1] + cost * cost)
                if value < following[end]:
                    following[end], origin[end] = value, start
        best = following
        froms.append(origin)
    cuts = [len(costs)]
    for origin in reversed(froms):
        cuts.append(origin[cuts[-1]])
    return cuts[::-1]
