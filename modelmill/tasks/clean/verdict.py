"""Checks in order → the first reason, if any, for which each row is dropped."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


class Verdict:
    """Collects the reasons of one family of rules for the rows of a table; the first check that fails counts."""

    def __init__(self, num_rows: int) -> None:
        self._numbers = np.zeros(num_rows, np.int32)
        self._reasons: list[str] = []

    def drop(self, rows: NDArray[np.bool_], reason: str) -> None:
        """Drop these rows, where no earlier check did."""
        self._reasons.append(reason)
        self._numbers[rows & (self._numbers == 0)] = len(self._reasons)

    def include(self, other: "Verdict") -> None:
        """Add the checks of another family, made on the same rows, after those so far."""
        for number, reason in enumerate(other._reasons, start=1):
            self.drop(other._numbers == number, reason)

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Rows that no check dropped."""
        return self._numbers == 0

    def split(self, table: pa.Table) -> tuple[pa.Table, pa.Table]:
        """The rows that stay, and the dropped ones with their `reason`."""
        kept = self.kept
        numbers = self._numbers[~kept] - 1
        reasons = pa.DictionaryArray.from_arrays(pa.array(numbers), pa.array(self._reasons, pa.string()))
        dropped = table.filter(pa.array(~kept)).append_column("reason", reasons.cast(pa.string()))
        return table.filter(pa.array(kept)), dropped


def above(values: NDArray, limit: float | None) -> NDArray[np.bool_]:
    """Rows whose value exceeds the limit; none where there is no limit."""
    return values > limit if limit is not None else np.zeros(len(values), bool)


def below(values: NDArray, limit: float | None) -> NDArray[np.bool_]:
    """Rows whose value falls short of the limit; none where there is no limit."""
    return values < limit if limit is not None else np.zeros(len(values), bool)


def ratio(part: NDArray, whole: NDArray) -> NDArray[np.float64]:
    """part / whole, 0 where there is nothing."""
    return part / np.maximum(whole, 1)


def merged_counts(counts: list[Mapping[str, int]]) -> dict[str, int]:
    """Sum of several counts by name, names sorted."""
    total: dict[str, int] = {}
    for one in counts:
        for name, number in one.items():
            total[name] = total.get(name, 0) + number
    return dict(sorted(total.items()))
