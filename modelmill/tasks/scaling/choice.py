"""Proxy runs → which way of counting parameters the law holds for; law and budget → the model to train.

Tiny models are mostly embedding, large ones hardly: so N is tried both with and without it, and the count whose law
lies nearer to the measured losses is kept. FLOPs always use the parameters that multiply (body and output head).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modelmill.tasks.errors import RecipeError
from modelmill.tasks.lm.shape import ModelShape, count_parameters
from modelmill.tasks.scaling.laws import FittedLaw, Interval, fit_loss_law, fit_with_bootstrap
from modelmill.tasks.scaling.shapes import body_parameters, ladder, smallest_shape
from modelmill.tasks.scaling.sweep import tokens_for

COUNTS = {"all": "all parameters, embeddings included", "body": "parameters without embedding and output head"}


@dataclass(frozen=True)
class ProxyRun:
    """One measured point: a shape, trained for `tokens` tokens including the decay, and its validation loss."""

    shape: ModelShape
    tokens: int
    flops: float
    loss: float
    learning_rate: float
    answer_nll: float | None = None
    accuracy: float | None = None


@dataclass(frozen=True)
class CountedLaw:
    """The fitted law with its way of counting N, and the relative error (root mean square) of every way tried."""

    count: str
    fitted: FittedLaw
    errors: dict[str, float]

    def size(self, shape: ModelShape) -> int:
        """N of a shape, as this law counts it."""
        return counted(shape, self.count)

    def forecast(self, shape: ModelShape, tokens: float, seed: int = 0) -> Interval:
        """Predicted validation loss of a decayed run, nats per token."""
        return self.fitted.forecast(self.size(shape), tokens, seed=seed)


@dataclass(frozen=True)
class Candidate:
    """A shape with the tokens that the budget buys it."""

    shape: ModelShape
    tokens: int
    loss: float


def counted(shape: ModelShape, count: str) -> int:
    """Parameters of a shape, with ("all") or without ("body") embeddings."""
    return count_parameters(shape) if count == "all" else body_parameters(shape)


def fit_counted_law(runs: Sequence[ProxyRun], *, num_copies: int, robust: bool, seed: int) -> CountedLaw:
    """Fit L(N, D) for both counts and keep the one with the smaller relative error."""
    tokens, losses = [run.tokens for run in runs], [run.loss for run in runs]
    errors = {}
    for count in COUNTS:
        sizes = [counted(run.shape, count) for run in runs]
        predicted = fit_loss_law(sizes, tokens, losses, robust=robust).loss(sizes, tokens)
        errors[count] = float(np.sqrt(np.mean((np.array(losses) / predicted - 1) ** 2)))
    best = min(errors, key=lambda count: errors[count])
    sizes = [counted(run.shape, best) for run in runs]
    return CountedLaw(best, fit_with_bootstrap(sizes, tokens, losses, num_copies, seed, robust), errors)


def candidates(
    law: CountedLaw,
    budget_flops: float,
    vocab_size: int,
    *,
    batch_tokens: int,
    low: float,
    high: float | None,
    max_tokens: float,
    tied: bool,
) -> list[Candidate]:
    """Every shape of the ladder between `low` and `high` parameters with what it would reach, ascending in size.

    Raises:
        RecipeError: no shape lies within the bounds.
    """
    low = max(low, count_parameters(smallest_shape(vocab_size, tied)))
    # A model that sees one batch only is the end of what a budget can buy.
    high = high or max(low, budget_flops / (6 * batch_tokens))
    shapes = ladder(low, high, vocab_size, tied) if high > low else []
    if not shapes:
        raise RecipeError(
            f"no model of the ladder has between {low:,.0f} and {high:,.0f} parameters (vocabulary {vocab_size:,}); "
            "widen min_parameters and max_parameters, or raise budget_flops."
        )
    whole = int(max_tokens // batch_tokens) * batch_tokens
    return [
        Candidate(shape, tokens, float(law.fitted.law.loss(law.size(shape), tokens)))
        for shape in shapes
        for tokens in [min(tokens_for(budget_flops, shape, batch_tokens), whole)]
    ]


def choose(found: Sequence[Candidate], low: float, high: float | None, max_tokens: float) -> tuple[Candidate, str]:
    """The candidate of the lowest forecast, and a sentence on what kept it from being smaller, larger or longer."""
    chosen = min(found, key=lambda candidate: candidate.loss)
    if chosen is found[0] and len(found) > 1:
        limit = f"The law would choose a smaller model; min_parameters ({low:,.0f}) keeps it."
    elif chosen is found[-1] and len(found) > 1 and high:
        limit = f"The law would choose a larger model; max_parameters ({high:,.0f}) keeps it."
    else:
        limit = "The lowest forecast lies inside the bounds."
    if chosen.tokens > max_tokens * 0.99:
        limit += f" The corpus allows no more than {max_tokens:,.0f} tokens (max_epochs)."
    return chosen, limit
