"""Every family: answers are right and well formed, wrong ones are told from malformed ones."""

import re
from random import Random

import pytest

from modelmill.tasks.verify.families import FAMILIES
from modelmill.tasks.verify.problem import Problem, judge, normalise, verify


@pytest.mark.parametrize("difficulty", [1, 2, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_is_right_and_well_formed(family: str, difficulty: int):
    rng = Random(7)
    for _ in range(300):
        problem = FAMILIES[family](rng, difficulty)
        assert problem.family == family
        assert verify(problem, problem.answer)
        assert re.fullmatch(problem.form, normalise(problem.answer)), problem


def solve_independently(problem: Problem) -> str:
    """The answer by another way than the generator's."""
    if problem.family == "arithmetic":
        terms = re.findall(r"[+-]?\d+", problem.prompt.removeprefix("Compute "))
        return str(sum(int(term) for term in terms))
    if problem.family == "counting":
        wanted, items = problem.prompt.removeprefix("Count ").split(" in ")
        return str(len(re.findall(wanted, items)))
    assert problem.family == "sorting"
    name, items = problem.prompt.split(": ")
    order = sorted(items)
    return "".join(order if name == "Sort up" else order[::-1])


@pytest.mark.parametrize("family", ["arithmetic", "counting", "sorting"])
def test_answers_agree_with_another_solver(family: str):
    rng = Random(3)
    for _ in range(200):
        problem = FAMILIES[family](rng, 2)
        assert solve_independently(problem) == problem.answer


def test_totals_of_arithmetic_stay_in_range():
    rng = Random(5)
    assert all(0 <= int(FAMILIES["arithmetic"](rng, 1).answer) <= 9 for _ in range(500))


def test_only_whitespace_is_forgiven():
    problem = Problem("formats", "List: 12", "[1, 2]", "List 12", r"\[[^\]]*\]")
    assert verify(problem, " [1,2] \n")
    assert verify(problem, "[1, 2]")
    assert not verify(problem, "[1, 2].")
    assert not verify(problem, "[12]")
    assert not verify(Problem("sorting", "", "12", "", r"\w{2}"), "1 2")


def test_a_wrong_reply_is_told_from_a_malformed_one():
    problem = Problem("python", "max([1, 2])", "2", "", r"\d+")
    assert judge(problem, "2") == "correct"
    assert judge(problem, "1") == "wrong"
    assert judge(problem, "two") == "malformed"
    assert judge(problem, "") == "malformed"
