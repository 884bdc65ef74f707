"""Band hashes → pairs of rows that agree in a band → connected components → one survivor for each."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from modelmill.tasks.dedup.exact import split_groups


def band_edges(hashes: NDArray[np.uint64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Join the rows of each equal hash to the smallest of them: different pairs (smallest, other), in order."""
    order = np.lexsort((rows, hashes))
    hashes, rows = hashes[order], rows[order]
    first = np.ones(len(hashes), bool)
    first[1:] = hashes[1:] != hashes[:-1]
    head = np.maximum.accumulate(np.where(first, np.arange(len(hashes)), 0))
    pairs = np.stack([rows[head], rows], axis=1)[~first]
    return np.unique(pairs, axis=0)


def components(edges: Iterable[NDArray[np.int64]], num_rows: int) -> NDArray[np.int64]:
    """The smallest row that each row is connected to, itself where it has no edge. Edges may come in pieces."""
    parents = np.arange(num_rows)
    for piece in edges:
        _join(parents, piece)
    _flatten(parents)
    return parents


def cluster_losers(keys: pa.Table) -> pa.Table:
    """`row` and `survivor` (an id) of all but the preferred row of each `cluster`."""
    return split_groups(keys, ["cluster"])[1]


@njit(cache=True, nogil=True)
def _root(parents, row):
    while parents[row] != row:
        parents[row] = parents[parents[row]]
        row = parents[row]
    return row


@njit(cache=True, nogil=True)
def _join(parents, edges):
    for i in range(len(edges)):
        a, b = _root(parents, edges[i, 0]), _root(parents, edges[i, 1])
        # The smaller row stays the root, so a root is always the smallest of its component.
        if a < b:
            parents[b] = a
        else:
            parents[a] = b


@njit(cache=True, nogil=True)
def _flatten(parents):
    for row in range(len(parents)):
        parents[row] = parents[parents[row]]
