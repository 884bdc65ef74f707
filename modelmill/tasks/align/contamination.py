"""Problems to train on and evaluation suites → the problems that hold no item of a suite, and a list of the others.

Llama 3 (§5.2) decontaminates what it aligns on by exact match with the prompts of the test sets; 8-grams find, besides,
an item with words around it. Both as in curate.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from modelmill.tasks.align.config import SuiteCheck
from modelmill.tasks.curate.decontaminate import SuiteIndex, found_grams, held_items, suite_index, suite_overlaps
from modelmill.tasks.curate.exact import ExactIndex, exact_index, exact_matches
from modelmill.tasks.suites.reader import suite_digest
from modelmill.tasks.verify.problem import Problem


@dataclass(frozen=True)
class SuiteIndices:
    """What to look for, a pair for each suite."""

    checks: tuple[SuiteCheck, ...]
    pairs: tuple[tuple[SuiteIndex, ExactIndex], ...]


def suite_indices(checks: Sequence[SuiteCheck]) -> SuiteIndices:
    """Read and index the suites."""
    grams = [suite_index(check.suite, check.ratio) for check in checks]
    return SuiteIndices(tuple(checks), tuple((index, exact_index(index.suite)) for index in grams))


def uncontaminated(problems: Sequence[Problem], indices: SuiteIndices) -> tuple[list[Problem], list[dict[str, Any]]]:
    """The problems that stay, in their order, and for each other one: suite, item, overlap, match, family, question."""
    if not indices.pairs or not problems:
        return list(problems), []
    texts = pa.chunked_array([pa.array([f"{problem.prompt}\n{problem.answer}" for problem in problems])])
    tables = []
    for number, (index, exact) in enumerate(indices.pairs):
        rows, grams = found_grams(texts, index)
        tables.append(suite_overlaps(rows, grams, exact_matches(texts, exact), index, number))
    suites = [(check.suite, check.ratio) for check in indices.checks]
    held = held_items(pa.concat_tables(tables), suites, len(problems)).to_pylist()
    removed = [
        row | {"family": problem.family, "question": problem.prompt}
        for row, problem in zip(held, problems, strict=True)
        if row["suite"] is not None
    ]
    return [problem for row, problem in zip(held, problems, strict=True) if row["suite"] is None], removed


def contamination_report(indices: SuiteIndices, removed: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """By suite: its digest, the ratio, and the problems that were left out for it."""
    return {
        index.suite.name: {
            "digest": suite_digest(check.suite),
            "ratio": check.ratio,
            "removed": [row for row in removed if row["suite"] == index.suite.name],
        }
        for check, (index, _) in zip(indices.checks, indices.pairs, strict=True)
    }
