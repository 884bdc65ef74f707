"""Rows of features → sums over boosted trees, by ruling out leaves instead of walking from node to node.

After QuickScorer (Lucchese et al. 2015, "QuickScorer: A Fast Algorithm to Rank Documents with Additive Ensembles of
Regression Trees"): a node whose test fails rules out the leaves to its left, and of those that are left the first is
reached. Nothing depends on the outcome of a test but a mask, so many rows are compared by one instruction.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

MAX_LEAVES = 64  # bits of a mask
_ROWS = 64  # at a time: their features stay in the processor's cache while all trees pass
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_ONE = np.uint64(1)
# The top six bits of the product tell the position of a single bit (de Bruijn's sequence).
_DE_BRUIJN, _TOP = 0x03F79D71B4CB0A89, np.uint64(58)
_FACTOR = np.uint64(_DE_BRUIJN)


def _positions() -> NDArray[np.uint8]:
    table = np.zeros(64, np.uint8)
    for bit in range(64):
        table[(_DE_BRUIJN << bit & 0xFFFFFFFFFFFFFFFF) >> 58] = bit
    table.flags.writeable = False
    return table


_POSITION = _positions()


@dataclass(frozen=True)
class Trees:
    """Boosted trees of at most MAX_LEAVES leaves, which are numbered from the left.

    feature, threshold: of each node; a row with a greater feature goes right, which rules out the leaves whose bits
    are not in `left`. ends: number of nodes up to the end of each tree. value: (trees, leaves). Classes take turns.
    """

    feature: NDArray[np.int16]
    threshold: NDArray[np.float32]
    left: NDArray[np.uint64]
    ends: NDArray[np.int32]
    value: NDArray[np.float32]

    def sums(self, rows: NDArray[np.float32], classes: int = 1) -> NDArray[np.float32]:
        """Sum of the leaves that each row reaches: (rows, classes)."""
        return _sums(rows, self.feature, self.threshold, self.left, self.ends, self.value, classes)


@njit(cache=True, nogil=True)
def _sums(rows, feature, threshold, left, ends, value, classes):
    num_rows, num_features = rows.shape
    columns, possible = np.zeros((num_features, _ROWS), np.float32), np.zeros(_ROWS, np.uint64)
    sums = np.zeros((num_rows, classes), np.float32)
    for start in range(0, num_rows, _ROWS):
        size = min(_ROWS, num_rows - start)
        for row in range(size):
            for column in range(num_features):
                columns[column, row] = rows[start + row, column]
        node = 0
        for tree in range(len(ends)):
            possible[:] = _ALL
            while node < ends[tree]:
                column, limit, mask = feature[node], threshold[node], left[node]
                for row in range(size):
                    possible[row] &= mask if columns[column, row] > limit else _ALL
                node += 1
            for row in range(size):
                leaf = _POSITION[((possible[row] & (~possible[row] + _ONE)) * _FACTOR) >> _TOP]
                sums[start + row, tree % classes] += value[tree, leaf]
    return sums
