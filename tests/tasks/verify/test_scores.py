"""Accuracies and their intervals."""

import pytest

from modelmill.tasks.verify.problems import problem_set
from modelmill.tasks.verify.scores import score_replies, wilson


def test_wilson_matches_published_values():
    # Newcombe 1998, table I: 81 of 263 and 0 of 20.
    result = wilson(81, 263)
    assert (result.low, result.high) == (pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))
    empty = wilson(0, 20)
    assert (empty.low, empty.high) == (0.0, pytest.approx(0.1611, abs=1e-4))


def test_no_problem_says_nothing():
    result = wilson(0, 0)
    assert (result.low, result.high, result.n) == (0.0, 1.0, 0)


def test_scores_count_right_and_malformed_replies_by_family():
    problems = problem_set("test", 60, seed=1)
    replies = [problem.answer if problem.family != "python" else "?" for problem in problems]
    scores = score_replies(problems, replies)
    assert scores["accuracy"] == pytest.approx(50 / 60, abs=1e-6)
    assert scores["malformed"] == pytest.approx(10 / 60, abs=1e-6)
    assert scores["by_family"]["python"]["accuracy"] == 0.0
    assert scores["by_family"]["edits"]["accuracy"] == 1.0
    assert scores["low"] < scores["accuracy"] < scores["high"]
