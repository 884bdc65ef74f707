"""A FLOP budget for proxies → the sizes and token counts to run, and what they cost.

Every size is trained once at a constant learning rate, and from that one run a decay branches off for each budget (the
WSD branch of MiniCPM, arXiv:2404.06395 §4): m budgets cost O(m) rather than O(m^2). Budgets are FLOP budgets, so the
runs form isoFLOP curves as they are.
"""

import math
from dataclasses import dataclass

from modelmill.tasks.errors import RecipeError
from modelmill.tasks.lm.shape import ModelShape, count_matmul_parameters, count_parameters
from modelmill.tasks.scaling.laws import FLOPS_PER_PARAMETER_TOKEN
from modelmill.tasks.scaling.shapes import shape_for, smallest_shape

MIN_DECAY_STEPS = 4  # a shorter decay does not reach the loss that a decayed run of that length would


@dataclass(frozen=True)
class Point:
    """One proxy run: a decayed model at `tokens` tokens, belonging to the isoFLOP curve of `flops`."""

    flops: float
    tokens: int


@dataclass(frozen=True)
class SizeRuns:
    """All proxy runs of one shape, ascending in tokens: one stable run with a decay branched off for each."""

    shape: ModelShape
    points: tuple[Point, ...]

    def training_flops(self, decay_share: float) -> float:
        """FLOPs of the stable run up to the last branch, and of every branch."""
        stable = max(point.tokens for point in self.points) * (1 - decay_share)
        decays = decay_share * sum(point.tokens for point in self.points)
        return FLOPS_PER_PARAMETER_TOKEN * count_matmul_parameters(self.shape) * (stable + decays)


def plan_sweep(
    flops: float,
    vocab_size: int,
    *,
    batch_tokens: int,
    num_sizes: int = 4,
    num_budgets: int = 3,
    budget_ratio: float = 2.0,
    size_ratio: float = 4.0,
    tokens_per_parameter: float = 20.0,
    decay_share: float = 0.2,
    max_tokens: float = math.inf,
    tied: bool = True,
) -> list[SizeRuns]:
    """Spend `flops` evenly on `num_sizes` sizes that span `size_ratio`, at `num_budgets` budgets `budget_ratio` apart.

    The middle of the sizes is the one that would see `tokens_per_parameter` at the middle budget, unless that lies
    below the smallest model this vocabulary allows.

    Raises:
        RecipeError: fewer than three sizes or budgets, sizes that the ladder cannot tell apart, or too short runs.
    """
    if num_sizes < 3 or num_budgets < 3:
        raise RecipeError(
            f"found {num_sizes} sizes and {num_budgets} budgets; the law needs at least 3 of each. Raise both to 3."
        )
    below = sum(budget_ratio**-step for step in range(1, num_budgets))
    largest = flops / (num_sizes * (1 + decay_share * below))
    budgets = [largest * budget_ratio**-step for step in reversed(range(num_budgets))]
    shapes = _spread_shapes(budgets, vocab_size, num_sizes, size_ratio, tokens_per_parameter, tied)
    sweep = [SizeRuns(shape, _points(shape, budgets, batch_tokens)) for shape in shapes]
    _check_lengths(sweep, batch_tokens, decay_share, max_tokens)
    return sweep


def tokens_for(flops: float, shape: ModelShape, batch_tokens: int) -> int:
    """D of C = 6 N D, in whole batches (at least one)."""
    exact = flops / (FLOPS_PER_PARAMETER_TOKEN * count_matmul_parameters(shape))
    return max(1, round(exact / batch_tokens)) * batch_tokens


def _spread_shapes(
    budgets: list[float], vocab_size: int, num_sizes: int, size_ratio: float, tokens_per_parameter: float, tied: bool
) -> list[ModelShape]:
    middle_budget = math.sqrt(budgets[0] * budgets[-1])
    middle = math.sqrt(middle_budget / (FLOPS_PER_PARAMETER_TOKEN * tokens_per_parameter))
    low = max(middle / math.sqrt(size_ratio), count_parameters(smallest_shape(vocab_size, tied)))
    shapes = [shape_for(low * size_ratio ** (step / (num_sizes - 1)), vocab_size, tied) for step in range(num_sizes)]
    if len({count_parameters(shape) for shape in shapes}) < num_sizes:
        found = ", ".join(f"{count_parameters(shape):,}" for shape in shapes)
        raise RecipeError(
            f"the ladder gives sizes of {found} parameters for {num_sizes} sizes over a ratio of {size_ratio:g}; "
            "they must differ. Raise size_ratio or lower num_sizes."
        )
    return shapes


def _points(shape: ModelShape, budgets: list[float], batch_tokens: int) -> tuple[Point, ...]:
    return tuple(Point(budget, tokens_for(budget, shape, batch_tokens)) for budget in budgets)


def _check_lengths(sweep: list[SizeRuns], batch_tokens: int, decay_share: float, max_tokens: float) -> None:
    shortest = min(point.tokens for runs in sweep for point in runs.points)
    needed = math.ceil(MIN_DECAY_STEPS / decay_share) * batch_tokens
    if shortest < needed:
        raise RecipeError(
            f"the shortest proxy run has {shortest:,} tokens; with batches of {batch_tokens:,} and a decay over "
            f"{decay_share:.0%} of them it needs {needed:,}. Raise sweep_flops (about {needed / shortest:.1f} times) "
            "or lower batch_tokens, size_ratio or budget_ratio."
        )
    longest = max(point.tokens for runs in sweep for point in runs.points)
    if longest > max_tokens:
        raise RecipeError(
            f"the longest proxy run has {longest:,} tokens, but the corpus allows {max_tokens:,.0f} (tokens times "
            "max_epochs). Lower sweep_flops or tokens_per_parameter, or add data."
        )
