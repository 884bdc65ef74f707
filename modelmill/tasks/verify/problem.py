"""A problem and a reply → correct, wrong or malformed; a problem's content → the split that it belongs to."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Literal

Split = Literal["train", "validation", "test"]
Verdict = Literal["correct", "wrong", "malformed"]

# Shares of the problems held out: validation chooses between models, test only measures them.
_SHARES: tuple[tuple[Split, float], ...] = (("test", 0.2), ("validation", 0.1))


@dataclass(frozen=True)
class Problem:
    """One task. `content` says what is asked, apart from the wording: equal contents have equal answers.

    form: regular expression of every well-formed reply, right or wrong.
    """

    family: str
    prompt: str
    answer: str
    content: str
    form: str

    @property
    def split(self) -> Split:
        """Decided by a hash of the content, so that no seed, number or wording moves a problem to another split."""
        digest = hashlib.sha256(f"{self.family}/{self.content}".encode()).digest()
        position = int.from_bytes(digest[:8], "big") / 2**64
        for name, share in _SHARES:
            if position < share:
                return name
            position -= share
        return "train"


Generator = Callable[[Random, int], Problem]
"""(random numbers, difficulty from 1) → a problem."""


def judge(problem: Problem, reply: str) -> Verdict:
    """Compare a reply with the answer; only whitespace may differ."""
    found = normalise(reply)
    if found == normalise(problem.answer):
        return "correct"
    return "wrong" if re.fullmatch(problem.form, found) else "malformed"


def verify(problem: Problem, reply: str) -> bool:
    """Whether the reply is right."""
    return judge(problem, reply) == "correct"


def normalise(text: str) -> str:
    """One space where there is any whitespace, none at the ends and around brackets and commas."""
    return re.sub(r" ?([\[\](),]) ?", r"\1", " ".join(text.split()))
