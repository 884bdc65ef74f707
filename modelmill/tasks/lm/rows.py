"""What one training row is, and the sources that make row number i from (seed, i) alone.

A source answers `row(number, length)`. Sources nest: a mixture draws from domains, or from domains and needles.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from modelmill.tasks.errors import ContractError
from modelmill.tasks.lm.losses import IGNORE
from modelmill.tasks.lm.packing import Packing, PackingKind, pack
from modelmill.tasks.tokenize.shards import TokenShards


@dataclass(frozen=True)
class Row:
    """int64 arrays of one row's length; labels[t] is the token to predict at t, or IGNORE.

    positions restart at 0 where a document (or a piece of one) begins: attention does not cross that border.
    """

    tokens: np.ndarray
    labels: np.ndarray
    positions: np.ndarray


class RowSource(Protocol):
    """A pure function from a row's number to the row."""

    def row(self, number: int, length: int) -> Row: ...

    def epochs(self, num_rows: int, length: int) -> dict[str, float]:
        """Passes over each domain that the first `num_rows` rows of a length make; nothing for rows made up anew."""
        ...


def empty_row(length: int, pad_token_id: int) -> Row:
    """A row of padding, to be filled from the left."""
    return Row(
        np.full(length, pad_token_id, dtype=np.int64),
        np.full(length, IGNORE, dtype=np.int64),
        np.arange(length, dtype=np.int64),
    )


def place(row: Row, at: int, tokens: np.ndarray, labels: np.ndarray) -> int:
    """Write one piece into a row at position `at`, restart positions behind it too, return where it ends."""
    end = at + len(tokens)
    row.tokens[at:end] = tokens
    row.labels[at:end] = labels
    row.positions[at:] = np.arange(len(row.positions) - at)
    row.positions[end:] = np.arange(len(row.positions) - end)
    return end


def random_generator(*key: int | str) -> np.random.Generator:
    """A generator seeded by numbers and names."""
    words = [part if isinstance(part, int) else int.from_bytes(part.encode(), "big") for part in key]
    return np.random.default_rng(words)


class DomainRows:
    """Packed documents of one domain. Row i: epoch i // rows per epoch, each epoch with its own order of documents
    and rows. Each token but a document's first is a label exactly once an epoch; with `begin_token_id` also the first.
    """

    def __init__(
        self,
        shards: TokenShards,
        domain: str,
        *,
        seed: int,
        packing: PackingKind = "best_fit",
        begin_token_id: int | None = None,
        pad_token_id: int = 0,
        repeat_long: tuple[int, int] | None = None,
        shuffle: bool = True,
    ) -> None:
        """`repeat_long` = (tokens, times): documents of at least so many tokens come `times` times an epoch."""
        self.shards = shards
        self.domain = domain
        self.seed = seed
        self.packing: PackingKind = packing
        self.begin = np.array([] if begin_token_id is None else [begin_token_id], dtype=np.int64)
        self.pad_token_id = pad_token_id
        self.repeat_long = repeat_long
        self.shuffle = shuffle
        self.starts = shards.document_starts(domain)
        self._num_rows: dict[int, int] = {}
        self._packed: tuple[tuple[int, int], np.ndarray, Packing, np.ndarray] | None = None

    def num_rows(self, length: int) -> int:
        """Rows of one epoch: the same in each, since packing depends on the lengths of the documents only."""
        if length not in self._num_rows:
            self._num_rows[length] = self._pack(0, length)[1].num_rows
        return self._num_rows[length]

    def row(self, number: int, length: int) -> Row:
        epoch, offset = divmod(number, self.num_rows(length))
        documents, packing, order = self._pack(epoch, length)
        row, at = empty_row(length, self.pad_token_id), 0
        for document, start, size in packing.pieces(int(order[offset])):
            tokens = self._tokens(int(documents[document]), start, size + 1)
            labels = np.full(size, IGNORE, dtype=np.int64)
            labels[: len(tokens) - 1] = tokens[1:]
            at = place(row, at, tokens[:size], labels)
        return row

    def epochs(self, num_rows: int, length: int) -> dict[str, float]:
        """Passes over the documents that come most often."""
        passes = num_rows / self.num_rows(length)
        if self.repeat_long and (np.diff(self.starts) >= self.repeat_long[0]).any():
            passes *= self.repeat_long[1]
        return {self.domain: passes}

    def _tokens(self, document: int, start: int, size: int) -> np.ndarray:
        """Up to `size` tokens of a document from `start` on, counted with its begin token."""
        lead = len(self.begin)
        first = max(start - lead, 0)
        end = min(start + size - lead, int(self.starts[document + 1] - self.starts[document]))
        tokens = self.shards.window(self.domain, int(self.starts[document]) + first, max(end - first, 0))
        return np.concatenate([self.begin[start : start + size], tokens.astype(np.int64)])

    def _pack(self, epoch: int, length: int) -> tuple[np.ndarray, Packing, np.ndarray]:
        if self._packed is None or self._packed[0] != (epoch, length):
            generator = random_generator(self.seed, self.domain, epoch, length)
            sizes = np.diff(self.starts)
            documents = np.arange(len(sizes))
            if self.repeat_long:
                documents = np.repeat(documents, np.where(sizes >= self.repeat_long[0], self.repeat_long[1], 1))
            if self.shuffle:
                generator.shuffle(documents)
            packing = pack(self.packing, sizes[documents] + len(self.begin), length)
            order = generator.permutation(packing.num_rows) if self.shuffle else np.arange(packing.num_rows)
            self._packed = (epoch, length), documents, packing, order
        return self._packed[1:]


class MaskedRows:
    """Explicit token sequences with a loss mask (instruction data), packed whole into rows; epochs reshuffle them."""

    def __init__(
        self,
        examples: Sequence[tuple[Sequence[int], Sequence[int]]],
        *,
        seed: int,
        pad_token_id: int,
        name: str = "examples",
    ) -> None:
        """Each example: token ids, and for each token whether predicting it is trained (1) or not (0)."""
        if not examples:
            raise ContractError("found no training example; expected at least one")
        self.examples = [(np.asarray(tokens, np.int64), np.asarray(mask, bool)) for tokens, mask in examples]
        if not any(mask[1:].any() for _, mask in self.examples):
            raise ContractError(
                "every token of every example is masked out of the loss; expected some ones in the masks"
            )
        self.seed = seed
        self.pad_token_id = pad_token_id
        self.name = name
        self._packed: tuple[int, Packing] | None = None

    def num_rows(self, length: int) -> int:
        """Rows of one epoch."""
        return self._pack(length).num_rows

    def row(self, number: int, length: int) -> Row:
        packing = self._pack(length)
        epoch, offset = divmod(number, packing.num_rows)
        order = random_generator(self.seed, "epoch", epoch).permutation(packing.num_rows)
        row, at = empty_row(length, self.pad_token_id), 0
        for example, _, size in packing.pieces(int(order[offset])):
            tokens, mask = self.examples[example]
            labels = np.full(size, IGNORE, dtype=np.int64)
            labels[:-1] = np.where(mask[1:], tokens[1:], IGNORE)
            at = place(row, at, tokens, labels)
        return row

    def epochs(self, num_rows: int, length: int) -> dict[str, float]:
        return {self.name: num_rows / self.num_rows(length)}

    def _pack(self, length: int) -> Packing:
        if self._packed is None or self._packed[0] != length:
            sizes = np.array([len(tokens) for tokens, _ in self.examples])
            if sizes.max() > length:
                raise ContractError(
                    f"the longest example has {sizes.max()} tokens, a row only {length}; raise the sequence length "
                    "or drop examples that are too long"
                )
            self._packed = length, pack("best_fit", sizes, length)
        return self._packed[1]
