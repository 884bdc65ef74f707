"""Haystack text → four tasks over the whole of it, as RULER has them (arXiv:2404.06654), and their accuracy by length.

    multi_key        facts about many things; one is asked for
    multi_value      several facts about one thing; all are asked for, in the order of the text
    variables        chains of assignments; all variables of one chain are asked for, in the order of the text
    common_words     a long list of words; the most frequent ones are asked for, in the order of the alphabet

Made from the held-out text and the facts of the needle test: the same prompts for the same tokens. An item counts when
each of its tokens is the most likely one after the prompt and the right items before it.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedModel

from modelmill.tasks.errors import ContractError
from modelmill.tasks.lm.needle import Haystack, Prompt, right_shares
from modelmill.tasks.lm.rows import random_generator

NUM_VALUES = 3
NUM_CHAINS = 2
CHAIN_LENGTH = 4
NUM_COMMON = 3
COMMONNESS = 6
MAX_KEYS = 16
TOKENS_PER_KEY = 32


class Puzzle(NamedTuple):
    """Sentences to be scattered through text in their order, the question at the end, and the items of its answer."""

    sentences: list[list[int]]
    question: list[int]
    items: list[list[int]]


def multi_key(haystack: Haystack, generator: np.random.Generator, length: int) -> Puzzle:
    """Facts about as many things as the length allows; the question is about one of them."""
    keys = generator.permutation(len(haystack.config.keys))[: min(length // TOKENS_PER_KEY, MAX_KEYS)]
    facts = [haystack.fact(generator, int(key)) for key in keys]
    asked = facts[int(generator.integers(len(facts)))]
    return Puzzle([fact.sentence for fact in facts], asked.question, [asked.answer])


def multi_value(haystack: Haystack, generator: np.random.Generator, length: int) -> Puzzle:
    """Several facts about one thing; the question is answered by all values."""
    key = int(generator.integers(len(haystack.config.keys)))
    facts = [haystack.fact(generator, key) for _ in range(NUM_VALUES)]
    items = [facts[0].answer, *(haystack.encode(",") + haystack.space + fact.answer for fact in facts[1:])]
    return Puzzle([fact.sentence for fact in facts], facts[0].question, items)


def variables(haystack: Haystack, generator: np.random.Generator, length: int) -> Puzzle:
    """Chains of assignments from a number on; the question is which variables hold one number."""
    letters = [chr(ord("A") + int(letter)) for letter in generator.permutation(26)]
    chains = [letters[start : start + CHAIN_LENGTH] for start in range(0, NUM_CHAINS * CHAIN_LENGTH, CHAIN_LENGTH)]
    values = generator.choice(np.arange(10_000, 100_000), NUM_CHAINS, replace=False)
    lines = [_assignments(chain, int(value)) for chain, value in zip(chains, values, strict=True)]
    order = generator.permutation(np.repeat(np.arange(NUM_CHAINS), CHAIN_LENGTH))
    sentences = [haystack.encode(lines[chain].pop(0)) for chain in order]
    asked = int(generator.integers(NUM_CHAINS))
    question = haystack.encode(f"\nThe variables that hold {values[asked]} are")
    return Puzzle(sentences, question, [haystack.encode(f" {name}") for name in chains[asked]])


def _assignments(chain: Sequence[str], value: int) -> list[str]:
    return [f"\nVAR {name} = {before}.\n" for name, before in zip(chain, [value, *chain], strict=False)]


PUZZLES: dict[str, Callable[[Haystack, np.random.Generator, int], Puzzle]] = {
    "multi_key": multi_key,
    "multi_value": multi_value,
    "variables": variables,
}
RULER_TASKS = (*PUZZLES, "common_words")


def ruler_prompt(task: str, haystack: Haystack, length: int, number: int) -> Prompt:
    """Sample `number` of a task; prompt and answer together have `length` tokens.

    Raises:
        ContractError: the task does not fit into so few tokens.
    """
    generator = random_generator("ruler", task, length, number)
    if task == "common_words":
        return common_words(haystack, generator, length)
    puzzle = PUZZLES[task](haystack, generator, length)
    room = length - 1 - sum(map(len, [*puzzle.sentences, puzzle.question, *puzzle.items]))
    if room < 0:
        raise ContractError(f"{length} tokens are too few for the task {task}; measure it at a greater length")
    cuts = np.sort(generator.integers(0, room + 1, len(puzzle.sentences)))
    pieces = np.split(haystack.text(generator, room), cuts)
    tokens = [haystack.begin_token_id, *pieces[0].tolist()]
    for sentence, piece in zip(puzzle.sentences, pieces[1:], strict=True):
        tokens += [*sentence, *piece.tolist()]
    return Prompt(tokens + puzzle.question, puzzle.items)


def common_words(haystack: Haystack, generator: np.random.Generator, length: int) -> Prompt:
    """A list of the facts' keys in random order that fills the prompt; a few come `COMMONNESS` times as often."""
    words = [haystack.encode(f" {key}") for key in haystack.config.keys]
    chosen = generator.permutation(len(words))
    common = sorted(chosen[:NUM_COMMON].tolist(), key=lambda word: haystack.config.keys[word])
    head = haystack.encode("\nWords:")
    question = haystack.encode("\nThe most common words are")
    items = [words[word] for word in common]
    room = length - 1 - sum(map(len, [head, question, *items]))
    block = [*common * COMMONNESS, *chosen[NUM_COMMON:]]
    listed: list[int] = []
    while len(listed) < room:
        for word in generator.permutation(block):
            listed += words[word]
    if room < sum(len(words[word]) for word in block):
        raise ContractError(f"{length} tokens are too few for the task common_words; measure it at a greater length")
    return Prompt([haystack.begin_token_id, *head, *listed[:room], *question], items)


class RulerScore(NamedTuple):
    """Share of right items at one length."""

    task: str
    length: int
    accuracy: float
    num_samples: int


def ruler_scores(
    model: PreTrainedModel, haystack: Haystack, *, lengths: Sequence[int], num_samples: int
) -> list[RulerScore]:
    """Accuracy of each task at each length, by one forward pass over prompt and answer.

    A task is left out at a length that is too short for one of its prompts.
    """
    scores = []
    for length in lengths:
        for task in RULER_TASKS:
            try:
                prompts = [ruler_prompt(task, haystack, length, number) for number in range(num_samples)]
            except ContractError:
                continue
            scores.append(RulerScore(task, length, sum(right_shares(model, prompts)) / num_samples, num_samples))
    return scores
