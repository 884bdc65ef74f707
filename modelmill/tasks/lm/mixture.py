"""Row sources and their weights, which may change → one row source; where a row comes from depends on its number."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence

import numpy as np

from modelmill.tasks.errors import ContractError
from modelmill.tasks.lm.rows import Row, RowSource, random_generator

MixtureChanges = Mapping[int, Sequence[tuple[int, Mapping[str, float]]]]
"""For a sequence length: pairs (from this row on, weight of each source), rising in rows."""


class MixtureRows:
    """Rows drawn from several sources by weight. Weights are met exactly within each block of 1,024 rows.

    Where the weights change, a new block begins and each source goes on with its next row; so a row's source depends
    on its number and sequence length alone.
    """

    BLOCK = 1024

    def __init__(
        self,
        sources: Mapping[str, RowSource],
        weights: Mapping[str, float],
        *,
        seed: int,
        changes: MixtureChanges | None = None,
    ) -> None:
        changes = changes or {}
        used = [weights, *(changed for pairs in changes.values() for _, changed in pairs)]
        self.names = [name for name in sources if any(each.get(name, 0.0) > 0 for each in used)]
        if not all(any(each.get(name, 0.0) > 0 for name in sources) for each in used):
            raise ContractError(f"no source with a positive weight among {sorted(sources)}: {dict(weights)}")
        self.sources = sources
        self.seed = seed
        self._first = self._borders(weights)
        self._changes = {
            length: [(row, self._borders(changed)) for row, changed in pairs] for length, pairs in changes.items()
        }
        self._before: dict[tuple[int, int], list[np.ndarray]] = {}
        self._current: tuple[tuple[int, int, int], np.ndarray] | None = None

    def draw(self, number: int, length: int) -> tuple[str, int]:
        """The source of a row, and how many earlier rows of this length came from that source."""
        stretch, block, offset = self._place(number, length)
        draws = self._draws(length, stretch, block)
        source = int(draws[offset])
        before = self._counts_before(length, stretch, block)[source]
        return self.names[source], int(before + np.count_nonzero(draws[:offset] == source))

    def row(self, number: int, length: int) -> Row:
        name, index = self.draw(number, length)
        return self.sources[name].row(index, length)

    def counts(self, num_rows: int, length: int) -> dict[str, int]:
        """How many of the first `num_rows` rows come from each source."""
        return dict(zip(self.names, self._counts(num_rows, length).tolist(), strict=True))

    def epochs(self, num_rows: int, length: int) -> dict[str, float]:
        """Passes over each domain of each source."""
        passes: dict[str, float] = {}
        for name, rows in self.counts(num_rows, length).items():
            for domain, count in self.sources[name].epochs(rows, length).items():
                passes[domain] = passes.get(domain, 0.0) + count
        return passes

    def _borders(self, weights: Mapping[str, float]) -> np.ndarray:
        shares = np.array([weights.get(name, 0.0) for name in self.names], dtype=np.float64)
        return np.cumsum(shares / shares.sum())

    def _stretches(self, length: int) -> list[tuple[int, np.ndarray]]:
        """(first row, borders between the sources' shares) of each stretch with the same weights."""
        return [(0, self._first), *self._changes.get(length, ())]

    def _place(self, number: int, length: int) -> tuple[int, int, int]:
        """Stretch, block in it, and row in the block."""
        starts = [start for start, _ in self._stretches(length)]
        stretch = bisect_right(starts, number) - 1
        return stretch, *divmod(number - starts[stretch], self.BLOCK)

    def _counts(self, num_rows: int, length: int) -> np.ndarray:
        if num_rows == 0:
            return np.zeros(len(self.names), dtype=np.int64)
        stretch, block, offset = self._place(num_rows - 1, length)
        drawn = np.bincount(self._draws(length, stretch, block)[: offset + 1], minlength=len(self.names))
        return self._counts_before(length, stretch, block) + drawn

    def _counts_before(self, length: int, stretch: int, block: int) -> np.ndarray:
        before = self._before.setdefault((length, stretch), [])
        if not before:
            before.append(self._counts(self._stretches(length)[stretch][0], length))
        while len(before) <= block:
            drawn = self._draws(length, stretch, len(before) - 1)
            before.append(before[-1] + np.bincount(drawn, minlength=len(self.names)))
        return before[block]

    def _draws(self, length: int, stretch: int, block: int) -> np.ndarray:
        key = length, stretch, block
        if self._current is None or self._current[0] != key:
            generator = random_generator(self.seed, "mixture", block, *([stretch] if stretch else []))
            points = (np.arange(self.BLOCK) + generator.random()) / self.BLOCK
            borders = self._stretches(length)[stretch][1]
            draws = np.minimum(np.searchsorted(borders, points, side="right"), len(self.names) - 1)
            self._current = key, generator.permutation(draws)
        return self._current[1]
