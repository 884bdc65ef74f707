"""Haystack text and made-up facts → rows that train retrieval over a distance, and accuracy by length and depth.

A fact is a sentence; its question is the same sentence up to the value. Digits are single tokens, so an answer is
right when each of its digits is the most likely next token: what greedy decoding would write.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedModel

from modelmill.tasks.errors import ContractError
from modelmill.tasks.lm.data import Batch, TokenFolder
from modelmill.tasks.lm.evaluate import measured
from modelmill.tasks.lm.losses import IGNORE, Head
from modelmill.tasks.lm.parallel.vocabulary import logits_of
from modelmill.tasks.lm.rows import Row, random_generator
from modelmill.tasks.lm.settings import NeedleConfig


class Fact(NamedTuple):
    """Token ids of the question, of its answer, and of what closes the sentence."""

    question: list[int]
    answer: list[int]
    close: list[int]

    @property
    def sentence(self) -> list[int]:
        return [*self.question, *self.answer, *self.close]


class Prompt(NamedTuple):
    """Token ids of a prompt, and of each item of its answer in order."""

    tokens: list[int]
    items: list[list[int]]


class Haystack:
    """Random windows of a split's text, and facts to hide in it."""

    def __init__(self, tokens: TokenFolder, split: str, config: NeedleConfig) -> None:
        self.shards = tokens.shards(split)
        self.domains = self.shards.domains
        self.config = config
        self.begin_token_id = tokens.begin_token_id
        self.end_token_id = tokens.end_token_id
        self.tokenizer = Tokenizer.from_file(str(tokens.tokenizer / "tokenizer.json"))
        before, after = config.sentence.split("{value}")
        self.questions = [self.encode("\n" + before.format(key=key).rstrip(" ")) for key in config.keys]
        self.space = self.encode(" 7")[:-1] if before.endswith(" ") else []
        self.digits = [self.encode(digit)[-1] for digit in "0123456789"]
        self.close = self.encode(after + "\n")

    def encode(self, text: str) -> list[int]:
        """Token ids of a piece of text."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def fact(self, generator: np.random.Generator, key: int) -> Fact:
        """A new value for a key."""
        digits = generator.integers(0, 10, self.config.num_digits)
        return Fact(self.questions[key] + self.space, [self.digits[digit] for digit in digits], self.close)

    def text(self, generator: np.random.Generator, length: int) -> np.ndarray:
        """`length` tokens of running text from one place, end-of-text tokens left out."""
        sizes = np.array([self.shards.num_tokens(domain) for domain in self.domains])
        domain = self.domains[int(generator.choice(len(sizes), p=sizes / sizes.sum()))]
        available, pieces, found = self.shards.num_tokens(domain), [], 0
        start = int(generator.integers(0, available))
        while found < length:
            piece = self.shards.window(domain, start, min(length - found + 16, available - start))
            piece = piece[piece != self.end_token_id]
            pieces.append(piece)
            found, start = found + len(piece), (start + length - found + 16) % available
        return np.concatenate(pieces)[:length].astype(np.int64)


class NeedleRows:
    """Training rows: facts and questions about earlier facts, scattered through text; a row source.

    Loss on the text and on the answers to questions, none on the facts themselves (their values cannot be known).
    """

    def __init__(self, tokens: TokenFolder, config: NeedleConfig, *, seed: int) -> None:
        self.haystack = Haystack(tokens, "train", config)
        self.seed = seed

    def row(self, number: int, length: int) -> Row:
        generator = random_generator(self.seed, "needle", number)
        sentences = self._sentences(generator, length)
        room = length - sum(len(tokens) for tokens, _ in sentences)
        cuts = np.sort(generator.integers(0, room + 1, len(sentences)))
        cuts[-1] = room
        text = self.haystack.text(generator, room)
        tokens, trained = [np.array([self.haystack.begin_token_id])], [np.array([False])]
        for piece, (sentence, mask) in zip(np.split(text, cuts[:-1]), sentences, strict=True):
            tokens += [piece, np.array(sentence)]
            trained += [np.ones(len(piece), bool), np.array(mask)]
        line, kept = np.concatenate(tokens), np.concatenate(trained)
        labels = np.where(kept[1:], line[1:], IGNORE)
        return Row(line[:-1], labels, np.arange(length, dtype=np.int64))

    def epochs(self, num_rows: int, length: int) -> dict[str, float]:
        """None: every row has facts of its own, and text from a random place."""
        return {}

    def _sentences(self, generator: np.random.Generator, length: int) -> list[tuple[list[int], list[bool]]]:
        """Facts and questions in order, each with its loss mask: keys in a random order, each twice or more often; the
        first time states a fact, later ones ask for it. So the last is a question, and as long as keys suffice every
        answer stands in one place only, as far away as the row is long: nearer repetitions would teach to look near."""
        config = self.haystack.config
        facts = [self.haystack.fact(generator, key) for key in generator.permutation(len(config.keys)).tolist()]
        size = max(len(fact.sentence) for fact in facts)
        if 2 * size > length:
            raise ContractError(f"a row of {length} tokens is too short for a fact and its question; use a longer one")
        number = max(int(config.density * length) // size, 2)
        places = np.arange(number) % min(number // 2, len(facts))
        stated: set[int] = set()
        sentences: list[tuple[list[int], list[bool]]] = []
        for place in generator.permutation(places).tolist():
            fact, ask = facts[place], place in stated
            stated.add(place)
            mask = [False] * len(fact.question) + [ask] * len(fact.answer) + [False] * len(fact.close)
            sentences.append((fact.sentence, mask))
        return sentences


@dataclass(frozen=True)
class NeedleScore:
    """Share of right answers at one length (tokens, answer included) and depth (0 = at the start, 1 = at the end)."""

    length: int
    depth: float
    accuracy: float
    num_samples: int


def needle_prompt(haystack: Haystack, length: int, depth: float, number: int) -> tuple[list[int], list[int]]:
    """(prompt, answer) token ids of sample `number`: one fact at `depth` of the text, its question at the end."""
    generator = random_generator("needle-test", length, round(depth * 1000), number)
    fact = haystack.fact(generator, int(generator.integers(0, len(haystack.config.keys))))
    sentence = fact.sentence
    room = length - 1 - len(sentence) - len(fact.question) - len(fact.answer)
    if room < 0:
        raise ContractError(f"{length} tokens are too few for a fact and its question; use a greater length")
    text = haystack.text(generator, room).tolist()
    place = round(depth * room)
    return [haystack.begin_token_id, *text[:place], *sentence, *text[place:], *fact.question], fact.answer


def needle_scores(
    model: PreTrainedModel,
    haystack: Haystack,
    *,
    lengths: Sequence[int],
    depths: Sequence[float],
    num_samples: int,
    tokens_per_forward: int = 8192,
) -> list[NeedleScore]:
    """Greedy accuracy for each length and depth, by one forward pass over prompt and answer."""
    scores = []
    for length in lengths:
        for depth in depths:
            samples = [needle_prompt(haystack, length, depth, number) for number in range(num_samples)]
            right = right_shares(model, [Prompt(prompt, [answer]) for prompt, answer in samples], tokens_per_forward)
            scores.append(NeedleScore(length, depth, sum(right) / num_samples, num_samples))
    return scores


def right_shares(model: PreTrainedModel, prompts: Sequence[Prompt], tokens_per_forward: int = 8192) -> list[float]:
    """Share of right items of each prompt; prompts and answers together are equally long.

    An item is right when each of its tokens is the most likely one after the prompt and the right items before it.
    """
    model.eval()
    lines = [[*prompt.tokens, *chain.from_iterable(prompt.items)] for prompt in prompts]
    tail = max(sum(map(len, prompt.items)) for prompt in prompts)
    tokens = torch.tensor(lines)
    batch = Batch(tokens, tokens, torch.arange(tokens.shape[1]).expand_as(tokens))

    def is_likeliest(hidden: Tensor, head: Head, batch: Batch) -> Tensor:
        return logits_of(hidden[:, -tail - 1 : -1], head).argmax(-1) == batch.input_ids[:, -tail:]

    found = torch.cat(measured(model, batch.split(max(tokens_per_forward // len(lines[0]), 1)), is_likeliest))
    return [_right_share(row, prompt.items) for row, prompt in zip(found.tolist(), prompts, strict=True)]


def _right_share(found: list[bool], items: list[list[int]]) -> float:
    """`found`: whether each of the last tokens is right; the last ones are those of the items."""
    ends = np.cumsum([len(item) for item in items])
    tokens = found[len(found) - int(ends[-1]) :]
    return sum(all(tokens[end - len(item) : end]) for item, end in zip(items, ends.tolist(), strict=True)) / len(items)
