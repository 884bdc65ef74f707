"""Problem sets: distinct, reproducible, held out by content."""

import pytest

from modelmill.tasks.errors import RecipeError
from modelmill.tasks.verify.families import FAMILIES
from modelmill.tasks.verify.problems import problem_set


@pytest.mark.parametrize("difficulty", [1, 2])
def test_splits_share_no_problem_whatever_their_seeds(difficulty: int):
    contents = {
        split: {
            (problem.family, problem.content)
            for seed in range(3)
            for problem in problem_set(split, 400, seed=seed, difficulty=difficulty)
        }
        for split in ("train", "validation", "test")
    }
    assert not contents["train"] & contents["test"]
    assert not contents["train"] & contents["validation"]
    assert not contents["validation"] & contents["test"]


def test_the_wording_of_a_problem_never_asks_for_another_splits_content():
    train = {problem.prompt for problem in problem_set("train", 3000, seed=1)}
    test = {problem.prompt for problem in problem_set("test", 500, seed=1)}
    assert not train & test


def test_a_set_is_reproducible_distinct_and_balanced():
    problems = problem_set("test", 120, seed=4, difficulty=2)
    assert problems == problem_set("test", 120, seed=4, difficulty=2)
    assert problems != problem_set("test", 120, seed=5, difficulty=2)
    assert len({(problem.family, problem.content) for problem in problems}) == 120
    assert all(sum(problem.family == family for problem in problems) == 20 for family in FAMILIES)


def test_asking_for_more_than_there_are_says_how_many_there_are():
    with pytest.raises(RecipeError, match=r"have only \d+ distinct test problems at difficulty 1"):
        problem_set("test", 10_000, seed=0, families=["counting"])


def test_an_unknown_family_is_named():
    with pytest.raises(RecipeError, match="juggling"):
        problem_set("train", 1, seed=0, families=["juggling"])
