"""What each process of a layout computes of conversations → the whole of it on every process."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from modelmill.tasks.lm.parallel.collectives import sum_gradient, sum_parts
from modelmill.tasks.lm.parallel.ranks import Ranks

_TOKENS_PER_FORWARD = 65_536
"""Without gradients: of all processes that share rows or layers together."""


def sum_over_labels(values: Tensor, ranks: Ranks) -> Tensor:
    """The sum over the processes with the same rows, each of which has values at its own labels and 0 elsewhere.

    The gradient of what all of them compute from the sum goes back to each one's values.
    """
    for group in ranks.sharing_groups:
        values = sum_gradient(sum_parts(values, group), group)
    return values


def computed_in_portions(
    compute: Callable[[Sequence[int]], Tensor], number: int, ranks: Ranks, *, length: int
) -> Tensor:
    """`compute(numbers)` of 0 … number - 1, each of `length` tokens: [number, ...] in main memory.

    Processes with rows of their own take equal portions, as all of them must make the same calls: where these end
    beyond the last number, it is computed again.
    """
    portion, together = -(-number // ranks.layout.data_size), max(_TOKENS_PER_FORWARD // length, 1)
    first = ranks.data_rank * portion
    own = [min(each, number - 1) for each in range(first, first + portion)]
    values = torch.cat([compute(own[start : start + together]).cpu() for start in range(0, portion, together)])
    if ranks.alone:
        return values
    found = values.new_zeros(number, *values.shape[1:])
    if ranks.sharing_rank == ranks.pipeline_rank == 0:
        end = min(first + portion, number)
        found[first:end] = values[: max(end - first, 0)]
    return ranks.sum_tensor(found)
