"""Labelled texts → how well the safety score and the density of words tell them apart; and the fit of the score."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.stats import rankdata

from modelmill.flows.benches.measured import Measured, cpu_seconds
from modelmill.flows.benches.safety_samples import LabelledText, safety_samples
from modelmill.tasks.clean.config import Safety
from modelmill.tasks.clean.safety import logistic_scores, num_unsafe_words, safety_features, safety_verdict
from modelmill.tasks.text.flat import characters
from modelmill.tasks.text.words import words

STEP = "safety"
SCORE = 0.9  # the threshold that precision and recall are given for


def measure(documents: Sequence[str] = (), num_samples: int = 3000, seed: int = 0) -> list[Measured]:
    """Precision, recall and AUC on invented texts whose sentences and words the fit has not seen.

    `documents`, taken to be safe, add the share of them that is dropped (`dropped`), and are what the rate is for.
    """
    samples = safety_samples(num_samples, held_out=True, seed=seed)
    labels = np.array([sample.unsafe for sample in samples])
    texts, num_words = _columns([sample.text for sample in samples])
    unsafe = num_unsafe_words(texts)
    scores = logistic_scores(safety_features(texts, unsafe, num_words))
    by_rule = ~safety_verdict(texts, num_words, Safety())[0].kept
    quality = {"score": _quality(labels, scores, scores > SCORE)}
    quality["rule"] = _quality(labels, unsafe / np.maximum(num_words, 1), by_rule)
    pages, page_words = _columns(documents) if documents else (texts, num_words)
    rate = len(pages) / cpu_seconds(lambda: safety_verdict(pages, page_words, Safety()))
    if documents:
        verdict, page_scores = safety_verdict(pages, page_words, Safety())
        quality["score"]["dropped"] = float((page_scores > SCORE).mean())
        quality["rule"]["dropped"] = float((~verdict.kept).mean())
    return [
        Measured(STEP, "safety score", rate, "documents/s", quality["score"], f"above {SCORE}; rate of both together"),
        Measured(STEP, "density of unsafe words", rate, "documents/s", quality["rule"], "defaults"),
    ]


def fitted_weights(num_samples: int = 3000, seed: int = 0, penalty: float = 0.01) -> NDArray[np.float64]:
    """Weights of the two features and the intercept: logistic regression by Newton's method, L2 `penalty`."""
    samples: list[LabelledText] = safety_samples(num_samples, held_out=False, seed=seed)
    texts, num_words = _columns([sample.text for sample in samples])
    features = safety_features(texts, num_unsafe_words(texts), num_words)
    inputs = np.column_stack([features, np.ones(len(samples))])
    labels = np.array([sample.unsafe for sample in samples])
    weights = np.zeros(3)
    for _ in range(30):
        chances = 1 / (1 + np.exp(-inputs @ weights))
        gradient = inputs.T @ (chances - labels) + penalty * weights
        curvature = (inputs.T * (chances * (1 - chances))) @ inputs + penalty * np.eye(3)
        weights -= np.linalg.solve(curvature, gradient)
    return weights


def _columns(texts: Sequence[str]) -> tuple[pa.Array, NDArray[np.int64]]:
    column = pa.array(texts, pa.large_string())
    return column, words(characters(column)).counts


def _quality(labels: NDArray[np.bool_], values: NDArray, dropped: NDArray[np.bool_]) -> dict[str, float]:
    """AUC is the chance that an unsafe text has the larger value than a safe one, ties counted half."""
    positives, negatives = labels.sum(), (~labels).sum()
    ranks = rankdata(values)[labels].sum()
    right = (dropped & labels).sum()
    return {
        "auc": float((ranks - positives * (positives + 1) / 2) / (positives * negatives)),
        "precision": float(right / max(dropped.sum(), 1)),
        "recall": float(right / positives),
    }
