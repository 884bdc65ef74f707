"""The labelled set for the safety score, and that the shipped weights are those that the fit gives."""

import numpy as np

from modelmill.flows.benches.safety import fitted_weights, measure
from modelmill.flows.benches.safety_samples import _SAFE, _UNSAFE, _UNSAFE_WORDS, safety_samples
from modelmill.tasks.clean.safety import score_weights


def test_the_shipped_weights_are_the_fitted_ones() -> None:
    np.testing.assert_allclose(score_weights(), fitted_weights(), atol=2e-3)


def test_no_unsafe_sentence_or_word_is_in_both_halves() -> None:
    for lists in (_UNSAFE_WORDS, _UNSAFE, _SAFE):
        for entries in lists.values():
            assert not set(entries[::2]) & set(entries[1::2])
    assert safety_samples(30, held_out=True) == safety_samples(30, held_out=True)
    assert sum(sample.unsafe for sample in safety_samples(30, held_out=True)) == 10


def test_the_score_is_better_than_density_where_words_are_spoken_about() -> None:
    score, rule = measure(["The river has seven bridges."], num_samples=300)
    assert score.quality["auc"] > rule.quality["auc"] + 0.1
    assert score.quality["precision"] > 0.95
    assert score.quality["dropped"] == rule.quality["dropped"] == 0
