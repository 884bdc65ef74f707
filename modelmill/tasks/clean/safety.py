"""Texts → a score of how likely each is adult or gambling advertising, and pages dropped for it or for such words.

The score is a logistic model of two numbers: unsafe words per 1,000 words, and words of medicine, law, news and art
per 1,000 words, which stand where unsafe words are spoken about rather than advertised. How it was fitted and what it
cannot do is said in data/safety_score.json.
"""

import functools
import json
import re
from importlib import resources

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from modelmill.tasks.clean.config import Safety
from modelmill.tasks.clean.verdict import Verdict, above, ratio

SAFETY_SCORE = "safety_score"


@functools.cache
def _pattern(name: str) -> str:
    entries = [re.escape(line) for line in _data(name).splitlines() if line and not line.startswith("#")]
    latin = "|".join(entry for entry in entries if entry.isascii())
    other = "|".join(entry for entry in entries if not entry.isascii())
    # ASCII case and word boundaries: Unicode's would take the search off its fast path.
    return rf"(?i-u:\b(?:{latin})\b)|(?:{other})"


def _data(name: str) -> str:
    return resources.files("modelmill.tasks.clean").joinpath(f"data/{name}").read_text(encoding="utf-8")


def num_unsafe_words(texts: pa.ChunkedArray | pa.Array) -> NDArray[np.int64]:
    """Unsafe words in each text."""
    series = pl.Series(pl.from_arrow(texts)).cast(pl.String).fill_null("")
    return series.str.count_matches(_pattern("unsafe_words.txt")).cast(pl.Int64).to_numpy()


def safety_features(
    texts: pa.ChunkedArray | pa.Array, unsafe: NDArray[np.int64], num_words: NDArray[np.int64]
) -> NDArray[np.float64]:
    """What the score is made of → array of rows times two, both zero for a text without unsafe words.

    log(1 + unsafe words per 1,000 words), log(1 + context words per 1,000 words).
    """
    features = np.zeros((len(unsafe), 2))
    rows = np.flatnonzero(unsafe)
    series = pl.Series(pl.from_arrow(texts)).cast(pl.String).gather(rows)
    context = series.str.count_matches(_pattern("safe_context_words.txt")).to_numpy()
    features[rows, 0] = np.log1p(1000 * ratio(unsafe[rows], num_words[rows]))
    features[rows, 1] = np.log1p(1000 * ratio(context, num_words[rows]))
    return features


@functools.cache
def score_weights() -> tuple[float, float, float]:
    """Weights of the two features, and the intercept."""
    weights = json.loads(_data("safety_score.json"))["weights"]
    return weights["unsafe_density"], weights["context_density"], weights["intercept"]


def logistic_scores(features: NDArray[np.float64]) -> NDArray[np.float32]:
    """Probability of each row, 0 to 1."""
    *slopes, intercept = score_weights()
    return (1 / (1 + np.exp(-(features @ np.array(slopes) + intercept)))).astype(np.float32)


def safety_verdict(
    texts: pa.ChunkedArray | pa.Array, num_words: NDArray[np.int64], config: Safety
) -> tuple[Verdict, NDArray[np.float32]]:
    """Judge texts by unsafe words per word and by their score → the verdict, and the scores."""
    unsafe = num_unsafe_words(texts)
    scores = logistic_scores(safety_features(texts, unsafe, num_words))
    verdict = Verdict(len(unsafe))
    dense = (unsafe >= config.min_count) & (ratio(unsafe, num_words) >= config.max_density)
    verdict.drop(dense, "unsafe_words")
    verdict.drop(above(scores, config.max_score), "unsafe_score")
    return verdict, scores
