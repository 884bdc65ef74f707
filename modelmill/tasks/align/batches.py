"""Pairs of replies → batches for the engine: a row holds both replies of a pair, padded to the longest of a batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import lcm

import numpy as np
import torch
from torch import Tensor

from modelmill.tasks.align.pairs import Pair
from modelmill.tasks.lm.data import TrainingBatch
from modelmill.tasks.lm.losses import IGNORE
from modelmill.tasks.lm.plan import StepPoint
from modelmill.tasks.lm.rows import random_generator


@dataclass(frozen=True)
class PairBatch(TrainingBatch):
    """A row is a pair: the chosen conversation, then the rejected one (P pairs, T tokens a conversation).

    input_ids [P, 2T]; labels [P, 2T]: the reply's token to predict at each position, IGNORE elsewhere and where it is
    another process's; replies [P, 2T]: where the replies' labels are, of all processes; preferred [P, 2T]: those that
    count in the preference term; last [P, 2]: position of each reply's last token in its conversation;
    reference [P, 2]: log-probability of the preferred tokens under the reference model.
    """

    input_ids: Tensor
    labels: Tensor
    replies: Tensor
    preferred: Tensor
    last: Tensor
    reference: Tensor

    @property
    def sequences(self) -> tuple[Tensor, Tensor]:
        """Chosen and rejected conversations in turn: [2P, T]."""
        return _conversations(self.input_ids.view(2 * len(self.input_ids), -1))

    @property
    def weight(self) -> float:
        """The number of pairs, each as far as it is this process's."""
        return float(self.shares.sum())

    @property
    def shares(self) -> Tensor:
        """The part of each pair's labels that this process has, float64 [P]: over all processes they add up to 1."""
        own = (self.labels != IGNORE).sum(1)
        return own.double() / self.replies.sum(1).clamp(min=1)


@dataclass(frozen=True)
class ReplyBatch(TrainingBatch):
    """Conversations that end with a reply: input_ids, labels [R, T] as of pairs, last [R]."""

    input_ids: Tensor
    labels: Tensor
    last: Tensor

    @property
    def sequences(self) -> tuple[Tensor, Tensor]:
        return _conversations(self.input_ids)

    @property
    def weight(self) -> float:
        """The number of replies."""
        return float(len(self.last))


def _conversations(input_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Rows with one conversation each, and their positions."""
    return input_ids, torch.arange(input_ids.shape[1], device=input_ids.device).expand(len(input_ids), -1)


class PairBatches:
    """Pairs in an order that each epoch shuffles anew; a row of a plan is a pair."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        *,
        seed: int,
        pad_token_id: int,
        batch_pairs: int,
        formatting: frozenset[int] = frozenset(),
        divisor: int = 1,
    ) -> None:
        """batch_pairs: of a step. formatting: token ids that do not count in the preference term. divisor: as of
        `pad_replies`."""
        self.pairs = pairs
        self.seed = seed
        self.pad_token_id = pad_token_id
        self.batch_pairs = batch_pairs
        self.formatting = torch.tensor(sorted(formatting), dtype=torch.int64)
        self.divisor = divisor
        self.length = max(map(_length, pairs))
        self.reference = torch.zeros(len(pairs), 2)
        self._order: tuple[int, np.ndarray] | None = None

    def batch(self, point: StepPoint) -> PairBatch:
        """The pairs of one step, or those of a process. All of the step decide on the length: experts see padding too,
        so that their loads would depend on who has which pairs."""
        first = point.step * self.batch_pairs
        whole = [self._pair_at(number) for number in range(first, first + self.batch_pairs)]
        own = slice(point.first_row - first, point.first_row - first + point.num_rows)
        return self.take(whole[own], max(_length(self.pairs[index]) for index in whole))

    def take(self, indices: Sequence[int], length: int = 0) -> PairBatch:
        """A batch of these pairs, padded to the longest or to `length`."""
        pairs = [self.pairs[index] for index in indices]
        rows = [(pair.prompt, reply) for pair in pairs for reply in (pair.chosen, pair.rejected)]
        padded = pad_replies(rows, self.pad_token_id, self.divisor, length)
        input_ids, labels, last = (tensor.view(len(pairs), -1) for tensor in padded.tensors.values())
        replies = labels != IGNORE
        preferred = replies & ~torch.isin(labels, self.formatting)
        return PairBatch(input_ids, labels, replies, preferred, last, self.reference[list(indices)])

    def _pair_at(self, number: int) -> int:
        epoch, offset = divmod(number, len(self.pairs))
        if self._order is None or self._order[0] != epoch:
            generator = random_generator(self.seed, "pairs", epoch)
            self._order = epoch, generator.permutation(len(self.pairs))
        return int(self._order[1][offset])


def _length(pair: Pair) -> int:
    """Tokens of the longer conversation."""
    return len(pair.prompt) + max(len(pair.chosen), len(pair.rejected))


def pad_replies(
    rows: Sequence[tuple[list[int], list[int]]], pad_token_id: int, divisor: int, length: int = 0
) -> ReplyBatch:
    """(prompt, reply) rows, padded to the longest or to `length`, and then to a multiple of `divisor`, as processes
    that share rows need it, and of 8, so that up to 8 of them see the padding that one alone does."""
    length = max(length, *(len(prompt) + len(reply) for prompt, reply in rows))
    length += -length % lcm(divisor, 8)
    tokens = np.full((len(rows), length), pad_token_id, dtype=np.int64)
    labels = np.full((len(rows), length), IGNORE, dtype=np.int64)
    last = np.empty(len(rows), dtype=np.int64)
    for number, (prompt, reply) in enumerate(rows):
        last[number] = len(prompt) + len(reply) - 1
        tokens[number, : last[number] + 1] = [*prompt, *reply]
        labels[number, len(prompt) - 1 : last[number]] = reply
    return ReplyBatch(torch.from_numpy(tokens), torch.from_numpy(labels), torch.from_numpy(last))
