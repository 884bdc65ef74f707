"""Texts → pages dropped for the density of unsafe words."""

import functools
import re
from importlib import resources

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from modelmill.tasks.clean.config import Safety
from modelmill.tasks.clean.verdict import Verdict, ratio


@functools.cache
def _pattern() -> str:
    text = resources.files("modelmill.tasks.clean").joinpath("data/unsafe_words.txt").read_text(encoding="utf-8")
    entries = [re.escape(line) for line in text.splitlines() if line and not line.startswith("#")]
    latin = "|".join(entry for entry in entries if entry.isascii())
    other = "|".join(entry for entry in entries if not entry.isascii())
    # ASCII case and word boundaries: Unicode's would take the search off its fast path.
    return rf"(?i-u:\b(?:{latin})\b)|(?:{other})"


def num_unsafe_words(texts: pa.ChunkedArray | pa.Array) -> NDArray[np.int64]:
    """Unsafe words in each text."""
    series = pl.Series(pl.from_arrow(texts)).cast(pl.String).fill_null("")
    return series.str.count_matches(_pattern()).cast(pl.Int64).to_numpy()


def safety_verdict(texts: pa.ChunkedArray | pa.Array, num_words: NDArray[np.int64], config: Safety) -> Verdict:
    """Judge texts by unsafe words per word."""
    unsafe = num_unsafe_words(texts)
    verdict = Verdict(len(unsafe))
    dense = (unsafe >= config.min_count) & (ratio(unsafe, num_words) >= config.max_density)
    verdict.drop(dense, "unsafe_words")
    return verdict
