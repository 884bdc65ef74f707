"""Sampled replies and verdicts → (right, wrong) pairs, and the best verified reply of each problem."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

from modelmill.tasks.align.chat import ChatFormat
from modelmill.tasks.stage import Sample
from modelmill.tasks.verify.problem import Problem, verify


@dataclass(frozen=True)
class Reply:
    """One sampled reply: prompt and reply as token ids (with the end-of-turn token when it came), and its verdict.

    problem: number of the problem in its round. reward: the reward model's value, once there is one.
    """

    problem: int
    prompt: list[int]
    token_ids: list[int]
    text: str
    correct: bool
    reward: float = 0.0


@dataclass(frozen=True)
class Pair:
    """Two replies to one prompt, all as token ids; edited: chosen is the reference answer, as no sample was right."""

    problem: int
    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    edited: bool


def judge_samples(
    problems: Sequence[Problem], prompts: Sequence[list[int]], samples: Sequence[Sequence[Sample]]
) -> list[Reply]:
    """Verify every sample. A reply that did not end is wrong, whatever it says."""
    return [
        Reply(number, prompt, sample.token_ids, sample.text, sample.finished and verify(problem, sample.text))
        for number, (problem, prompt, drawn) in enumerate(zip(problems, prompts, samples, strict=True))
        for sample in drawn
    ]


def make_pairs(
    problems: Sequence[Problem], replies: Sequence[Reply], chat: ChatFormat, pairs_per_prompt: int, seed: int
) -> list[Pair]:
    """Distinct right replies against distinct wrong ones of the same prompt, in seeded order.

    Only pairs with a verified difference are made (Llama 3.1 keeps "significantly better" and "better" only). Where no
    sample is right the reference answer is chosen, as Llama 3.1 uses edited replies (§4.2.1).
    """
    rng = Random(f"pairs/{seed}")
    references = reference_replies(problems, chat)
    pairs = []
    for number, drawn in enumerate(group(replies, len(problems))):
        wrong = _distinct(reply for reply in drawn if not reply.correct)
        right = _distinct(reply for reply in drawn if reply.correct)
        chosen = right or [references[number]]
        rng.shuffle(wrong)
        for index, rejected in enumerate(wrong[:pairs_per_prompt]):
            pairs.append(Pair(number, drawn[0].prompt, chosen[index % len(chosen)], rejected, not right))
    return pairs


def select_replies(
    problems: Sequence[Problem], replies: Sequence[Reply], chat: ChatFormat
) -> tuple[list[list[int]], int]:
    """The reply of each problem for the next supervised step, as token ids, and how many of them were sampled.

    Of the verified replies the one with the highest reward (rejection sampling, Llama 3.1 §4.2.2); for a problem that
    was never solved the reference answer, since dropping hard prompts made Llama 3.1 worse.
    """
    selected, sampled = reference_replies(problems, chat), 0
    for number, drawn in enumerate(group(replies, len(problems))):
        right = [reply for reply in drawn if reply.correct]
        if right:
            selected[number] = max(right, key=lambda reply: (reply.reward, reply.token_ids)).token_ids
            sampled += 1
    return selected, sampled


def reference_replies(problems: Sequence[Problem], chat: ChatFormat) -> list[list[int]]:
    """Token ids of each problem's answer, with the end-of-turn token."""
    examples = chat.examples([problem.prompt for problem in problems], [problem.answer for problem in problems])
    return [[token for token, bit in zip(tokens, mask, strict=True) if bit] for tokens, mask in examples]


def group(replies: Sequence[Reply], num_problems: int) -> list[list[Reply]]:
    """Replies by the number of their problem."""
    grouped: list[list[Reply]] = [[] for _ in range(num_problems)]
    for reply in replies:
        grouped[reply.problem].append(reply)
    return grouped


def _distinct(replies: Iterable[Reply]) -> list[list[int]]:
    """Different token sequences in order of appearance."""
    return [list(tokens) for tokens in dict.fromkeys(tuple(reply.token_ids) for reply in replies)]
