"""Texts → language (ISO 639-1) and confidence of each, by eldc's character n-grams."""

import functools
from collections.abc import Sequence

import eldc
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from modelmill.tasks.clean.verdict import Verdict

UNKNOWN = "und"
# eldc reads the first 1,000 bytes of what it is given: a long text is judged by its beginning, middle and end.
WINDOW = 1000


@functools.cache
def _detector():
    eldc.init()
    return eldc.instance()


def identify(texts: Sequence[str]) -> tuple[list[str], NDArray[np.float32]]:
    """Language and confidence (0 to 1) of each text; "und" and 0 where there is nothing to go by."""
    found = [_identify(text) for text in texts]
    return [language for language, _ in found], np.array([score for _, score in found], np.float32)


def _identify(text: str) -> tuple[str, float]:
    if len(text) <= WINDOW:
        return _identify_window(text)
    middle, end = (len(text) - WINDOW) // 2, len(text) - WINDOW
    windows = [_identify_window(text[start : start + WINDOW]) for start in (0, middle, end)]
    known = [(language, score) for language, score in windows if language != UNKNOWN]
    totals: dict[str, float] = {}
    for language, score in known:
        totals[language] = totals.get(language, 0.0) + score
    if not totals:
        return UNKNOWN, 0.0
    best = max(totals, key=lambda language: (totals[language], language))
    return best, totals[best] / len(known)


def _identify_window(text: str) -> tuple[str, float]:
    result = _detector().detect_details(text)
    return (result.language, max(result.scores.values())) if result.scores else (UNKNOWN, 0.0)


def with_language(table: pa.Table, column: str = "text") -> pa.Table:
    """The table with columns language (string) and language_score (float32), replaced if they exist."""
    languages, scores = identify(table[column].fill_null("").to_pylist())
    for name, values in (("language", pa.array(languages, pa.string())), ("language_score", pa.array(scores))):
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, values)
        else:
            table = table.append_column(name, values)
    return table


def language_verdict(table: pa.Table, languages: Sequence[str], min_score: float) -> Verdict:
    """Judge rows by their columns language and language_score."""
    verdict = Verdict(table.num_rows)
    found = np.array(table["language"].to_pylist(), dtype=object)
    verdict.drop(found == UNKNOWN, "language_unknown")
    if languages:
        verdict.drop(~np.isin(found.astype(str), list(languages)), "language_not_wanted")
    # A score is stored as float32: compare with the limit as float32, so that a page at the limit passes.
    verdict.drop(table["language_score"].to_numpy() < np.float32(min_score), "language_uncertain")
    return verdict
