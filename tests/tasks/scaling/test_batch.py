import math

import pytest

from modelmill.tasks.scaling.batch import BatchTrial, fit_batch_laws, scaled_rate

FLOPS_PER_TOKEN = 6e5


def planted(batch_tokens: int, tokens: int) -> BatchTrial:
    """L = 2 + 40 D^-0.3, with a valley over ln(batch) at 20 · D^0.35 that is equally wide at every D."""
    best = 20 * tokens**0.35
    loss = 2 + 40 * tokens**-0.3 + 0.02 * math.log(batch_tokens / best) ** 2
    return BatchTrial(batch_tokens, tokens, FLOPS_PER_TOKEN * tokens, loss)


def test_both_laws_are_found() -> None:
    counts = (200_000, 400_000, 800_000, 1_600_000)
    trials = [planted(batch, tokens) for batch in (512, 1024, 2048, 4096, 8192) for tokens in counts]
    laws = fit_batch_laws(trials)
    law = laws.by_compute.parameters_law
    assert law is not None
    assert law.exponent == pytest.approx(0.35)
    assert laws.at(FLOPS_PER_TOKEN * 1e7) == pytest.approx(20 * 1e7**0.35)
    assert laws.by_loss is not None
    assert laws.by_loss.parameters_law is not None
    assert laws.by_loss.parameters_law.exponent < 0, "a lower loss wants a larger batch"


def test_without_valleys_there_is_no_law() -> None:
    trials = [planted(batch, tokens) for batch in (16, 32, 64) for tokens in (200_000, 400_000)]
    assert fit_batch_laws(trials).at(1e12) is None


def test_rate_follows_the_root_of_the_batch() -> None:
    assert scaled_rate(2e-3, 4096, 1024) == pytest.approx(4e-3)
