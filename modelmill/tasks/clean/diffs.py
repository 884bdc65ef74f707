"""Texts → pages dropped because they show what changed between two versions of code or of a wiki page."""

import numpy as np
import polars as pl
import pyarrow as pa

from modelmill.tasks.clean.config import Diffs
from modelmill.tasks.clean.verdict import Verdict, ratio

_HUNK = r"(?m)^@@ -\d+(?:,\d+)? \+\d+(?:,\d+)? @@"
_CHANGED = r"(?m)^[+-]"
# MediaWiki's page of differences names both revisions, and the number of each line above it.
_REVISION = r"(?:Latest r|R)evision as of \d|← Older edit|Newer edit →"
_NUMBERED = r"(?m)^\s*Line \d+:"


def diff_verdict(texts: pa.ChunkedArray | pa.Array, config: Diffs) -> Verdict:
    """Judge texts by their lines; a page that quotes a short patch stays (dots.llm1 C.2 publishes no threshold)."""
    series = pl.Series(pl.from_arrow(texts)).cast(pl.String).fill_null("")
    verdict = Verdict(len(series))
    # Few texts have a hunk: only in those are the lines counted.
    suspects = np.flatnonzero(series.str.contains(_HUNK).to_numpy())
    found = series.gather(suspects)
    changed = found.str.count_matches(_CHANGED).to_numpy().astype(np.int64)
    lines = found.str.strip_chars().str.count_matches("\n").to_numpy().astype(np.int64) + 1
    is_patch = np.zeros(len(series), bool)
    is_patch[suspects] = ratio(changed, lines) > config.max_changed_lines
    verdict.drop(is_patch, "code_diff")
    revisions = series.str.count_matches(_REVISION).to_numpy().astype(np.int64)
    numbered = series.str.count_matches(_NUMBERED).to_numpy().astype(np.int64)
    verdict.drop((revisions >= 2) & (numbered >= config.min_wiki_line_numbers), "wiki_diff")
    return verdict
