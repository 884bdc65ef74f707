"""Families, a split, a number and a seed → distinct problems of that split, in turn from each family."""

from collections.abc import Iterator, Sequence
from itertools import islice
from random import Random

from modelmill.tasks.errors import RecipeError
from modelmill.tasks.verify.families import FAMILIES
from modelmill.tasks.verify.problem import Problem, Split

# Draws without a new problem after which a family counts as exhausted.
_PATIENCE = 2000


def problem_set(
    split: Split, number: int, *, seed: int | str, difficulty: int = 1, families: Sequence[str] = tuple(FAMILIES)
) -> list[Problem]:
    """`number` distinct problems, the families equally often as long as they have any left.

    Raises:
        RecipeError: a family is unknown, or all of them together have fewer problems.
    """
    unknown = sorted(set(families) - set(FAMILIES))
    if unknown or not families:
        raise RecipeError(f"unknown task families {unknown} (found {list(families)}); there are {sorted(FAMILIES)}")
    sources = [_stream(family, split, seed, difficulty) for family in families]
    problems: list[Problem] = []
    while sources and len(problems) < number:
        drawn = [next(source, None) for source in sources]
        sources = [source for source, problem in zip(sources, drawn, strict=True) if problem]
        problems.extend(problem for problem in drawn if problem)
    if len(problems) < number:
        raise RecipeError(
            f"the families {list(families)} have only {len(problems)} distinct {split} problems at difficulty "
            f"{difficulty}, and {number} are asked for. Ask for fewer, or raise the difficulty."
        )
    return list(islice(problems, number))


def _stream(family: str, split: Split, seed: int | str, difficulty: int) -> Iterator[Problem]:
    """New problems of one family and split until nothing new comes."""
    rng = Random(f"{family}/{split}/{seed}")
    seen: set[str] = set()
    tries = 0
    while tries < _PATIENCE:
        tries += 1
        problem = FAMILIES[family](rng, difficulty)
        if problem.split == split and problem.content not in seen:
            seen.add(problem.content)
            tries = 0
            yield problem
