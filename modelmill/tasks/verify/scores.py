"""Problems and replies → accuracy with a 95 % Wilson interval, overall and by family."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from modelmill.tasks.verify.problem import Problem, judge


@dataclass(frozen=True)
class Accuracy:
    """Share of correct replies, its 95 % interval and the number of problems."""

    accuracy: float
    low: float
    high: float
    n: int


def wilson(correct: int, n: int, z: float = 1.96) -> Accuracy:
    """The Wilson score interval, which unlike S ± 1.96·sqrt(S(1-S)/n) stays honest at 0 and 1."""
    if n == 0:
        return Accuracy(0.0, 0.0, 1.0, 0)
    share = correct / n
    centre = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return Accuracy(share, max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale), n)


def score_replies(problems: Sequence[Problem], replies: Sequence[str]) -> dict[str, Any]:
    """{accuracy, low, high, n, malformed, by_family: {family: {accuracy, low, high, n}}}, rounded to six places."""
    verdicts = [judge(problem, reply) for problem, reply in zip(problems, replies, strict=True)]
    families = sorted({problem.family for problem in problems})
    by_family = {
        family: _interval([v for v, p in zip(verdicts, problems, strict=True) if p.family == family])
        for family in families
    }
    malformed = verdicts.count("malformed") / max(len(verdicts), 1)
    return _interval(verdicts) | {"malformed": round(malformed, 6), "by_family": by_family}


def _interval(verdicts: Sequence[str]) -> dict[str, Any]:
    result = wilson(sum(verdict == "correct" for verdict in verdicts), len(verdicts))
    return {
        "accuracy": round(result.accuracy, 6),
        "low": round(result.low, 6),
        "high": round(result.high, 6),
        "n": result.n,
    }
