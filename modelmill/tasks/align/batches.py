"""Pairs of replies → batches for the engine: chosen and rejected rows side by side, padded to the longest."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from modelmill.tasks.align.pairs import Pair
from modelmill.tasks.lm.losses import IGNORE
from modelmill.tasks.lm.plan import StepPoint
from modelmill.tasks.lm.rows import random_generator


@dataclass(frozen=True)
class PairBatch:
    """Rows 0..P-1 are chosen, P..2P-1 rejected (P pairs, T tokens a row).

    input_ids [2P, T]; labels [2P, T]: the reply's token to predict at each position, IGNORE elsewhere;
    preferred [2P, T]: labels that count in the preference term; last [2P]: position of the reply's last token;
    reference [2P]: log-probability of the preferred tokens under the reference model.
    """

    input_ids: Tensor
    labels: Tensor
    preferred: Tensor
    last: Tensor
    reference: Tensor

    @property
    def num_tokens(self) -> int:
        return self.input_ids.numel()

    @property
    def num_pairs(self) -> int:
        return len(self.input_ids) // 2

    @property
    def weight(self) -> float:
        """What the summed loss is divided by: the number of pairs."""
        return float(self.num_pairs)

    @property
    def position_ids(self) -> Tensor:
        """0, 1, 2 … in each row: no row holds more than one conversation."""
        return torch.arange(self.input_ids.shape[1], device=self.input_ids.device).expand_as(self.input_ids)

    def split(self, rows: int) -> "Iterator[PairBatch]":
        """Micro-batches of about `rows` rows, pairs kept together."""
        pairs = max(rows // 2, 1)
        for start in range(0, self.num_pairs, pairs):
            chosen = torch.arange(start, min(start + pairs, self.num_pairs), device=self.input_ids.device)
            yield self._select(torch.cat([chosen, chosen + self.num_pairs]))

    def to(self, device: str) -> "PairBatch":
        return PairBatch(*(tensor.to(device) for tensor in self._tensors()))

    def _select(self, rows: Tensor) -> "PairBatch":
        return PairBatch(*(tensor[rows] for tensor in self._tensors()))

    def _tensors(self) -> tuple[Tensor, ...]:
        return self.input_ids, self.labels, self.preferred, self.last, self.reference


class PairBatches:
    """Pairs in an order that each epoch shuffles anew; step i takes the pairs that its rows stand for."""

    def __init__(
        self, pairs: Sequence[Pair], *, seed: int, pad_token_id: int, formatting: frozenset[int] = frozenset()
    ) -> None:
        """`formatting`: token ids that do not count in the preference term."""
        self.pairs = pairs
        self.seed = seed
        self.pad_token_id = pad_token_id
        self.formatting = torch.tensor(sorted(formatting), dtype=torch.int64)
        self.length = max(len(pair.prompt) + max(len(pair.chosen), len(pair.rejected)) for pair in pairs)
        self.reference = torch.zeros(2, len(pairs))
        self._order: tuple[int, np.ndarray] | None = None

    def batch(self, point: StepPoint) -> PairBatch:
        """The pairs of one step; two rows of the plan are one pair."""
        numbers = range(point.first_row // 2, (point.first_row + point.num_rows) // 2)
        return self.take([self._pair_at(number) for number in numbers])

    def take(self, indices: Sequence[int]) -> PairBatch:
        """A batch of these pairs."""
        pairs = [self.pairs[index] for index in indices]
        rows = [(pair.prompt, pair.chosen) for pair in pairs] + [(pair.prompt, pair.rejected) for pair in pairs]
        input_ids, labels, last = pad_replies(rows, self.length, self.pad_token_id)
        preferred = (labels != IGNORE) & ~torch.isin(labels, self.formatting)
        return PairBatch(input_ids, labels, preferred, last, self.reference[:, list(indices)].flatten())

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
