"""Pairs of replies → batches for the engine: a row holds the chosen and the rejected one, padded to the longest."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from modelmill.tasks.align.pairs import Pair
from modelmill.tasks.lm.losses import IGNORE
from modelmill.tasks.lm.plan import StepPoint
from modelmill.tasks.lm.rows import random_generator


@dataclass(frozen=True)
class PairBatch:
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
    def num_tokens(self) -> int:
        return self.input_ids.numel()

    @property
    def weight(self) -> float:
        """What the summed loss is divided by: the number of pairs, each as far as it is this process's."""
        return float(self.shares.sum())

    @property
    def shares(self) -> Tensor:
        """The part of each pair's labels that this process has, float64 [P]: over all processes they add up to 1."""
        own = (self.labels != IGNORE).sum(1)
        return own.double() / self.replies.sum(1).clamp(min=1)

    @property
    def conversations(self) -> Tensor:
        """Token ids [2P, T]: chosen and rejected in turn."""
        return self.input_ids.view(2 * len(self.input_ids), -1)

    def split(self, rows: int) -> "Iterator[PairBatch]":
        """Micro-batches of at most `rows` pairs."""
        pieces = (tensor.split(rows) for tensor in self._tensors())
        return (PairBatch(*tensors) for tensors in zip(*pieces, strict=True))

    def to(self, device: str) -> "PairBatch":
        return PairBatch(*(tensor.to(device) for tensor in self._tensors()))

    def _tensors(self) -> list[Tensor]:
        return [getattr(self, field.name) for field in fields(self)]


class PairBatches:
    """Pairs in an order that each epoch shuffles anew; a row of a plan is a pair."""

    def __init__(
        self, pairs: Sequence[Pair], *, seed: int, pad_token_id: int, formatting: frozenset[int] = frozenset()
    ) -> None:
        """`formatting`: token ids that do not count in the preference term."""
        self.pairs = pairs
        self.seed = seed
        self.pad_token_id = pad_token_id
        self.formatting = torch.tensor(sorted(formatting), dtype=torch.int64)
        self.length = max(len(pair.prompt) + max(len(pair.chosen), len(pair.rejected)) for pair in pairs)
        self.reference = torch.zeros(len(pairs), 2)
        self._order: tuple[int, np.ndarray] | None = None

    def batch(self, point: StepPoint) -> PairBatch:
        """The pairs of one step."""
        numbers = range(point.first_row, point.first_row + point.num_rows)
        return self.take([self._pair_at(number) for number in numbers])

    def take(self, indices: Sequence[int]) -> PairBatch:
        """A batch of these pairs."""
        pairs = [self.pairs[index] for index in indices]
        rows = [(pair.prompt, reply) for pair in pairs for reply in (pair.chosen, pair.rejected)]
        input_ids, labels, last = (
            tensor.view(len(pairs), -1) for tensor in pad_replies(rows, self.length, self.pad_token_id)
        )
        replies = labels != IGNORE
        preferred = replies & ~torch.isin(labels, self.formatting)
        return PairBatch(input_ids, labels, replies, preferred, last, self.reference[list(indices)])

    def _pair_at(self, number: int) -> int:
        epoch, offset = divmod(number, len(self.pairs))
        if self._order is None or self._order[0] != epoch:
            generator = random_generator(self.seed, "pairs", epoch)
            self._order = epoch, generator.permutation(len(self.pairs))
        return int(self._order[1][offset])


def pad_replies(
    rows: Sequence[tuple[list[int], list[int]]], length: int, pad_token_id: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(prompt, reply) rows → input_ids [R, length], labels [R, length] (the reply's tokens), last position [R]."""
    tokens = np.full((len(rows), length), pad_token_id, dtype=np.int64)
    labels = np.full((len(rows), length), IGNORE, dtype=np.int64)
    last = np.empty(len(rows), dtype=np.int64)
    for number, (prompt, reply) in enumerate(rows):
        last[number] = len(prompt) + len(reply) - 1
        tokens[number, : last[number] + 1] = [*prompt, *reply]
        labels[number, len(prompt) - 1 : last[number]] = reply
    return torch.from_numpy(tokens), torch.from_numpy(labels), torch.from_numpy(last)
