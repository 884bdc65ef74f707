"""Rows of small integers → k-means centres, the nearest centre of each row, and which rows of a cluster stay.

All products are exact (see embeddings), so the results do not depend on threads, batches or workers.
"""

import numpy as np

from modelmill.tasks.curate.embeddings import small_integers

BLOCK_ROWS = 1024


def kmeans_centres(rows: np.ndarray, num_clusters: int, rounds: int = 10) -> np.ndarray:
    """Spherical k-means (Lloyd's algorithm on cosines), int8 [num_clusters, dimensions], begun with the first rows.

    rows: int8, in an order that is as good as random. A centre that loses all its rows stays where it is.
    """
    centres = rows[:num_clusters].copy()
    for _ in range(rounds):
        labels = nearest_centres(rows, centres)
        order = np.argsort(labels, kind="stable")
        present, starts = np.unique(labels[order], return_index=True)
        scaled = _unit(rows)[order]
        # In float64 a sum depends on its order only beyond the sixteenth digit; the order is that of the rows.
        moved = small_integers(np.add.reduceat(scaled, starts, axis=0))
        if np.array_equal(centres[present], moved):
            break
        centres[present] = moved
    return centres


def nearest_centres(rows: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Index of the centre with the largest cosine for each row, the first of equal ones."""
    labels = np.empty(len(rows), np.int64)
    norms = _norms(centres)
    for start in range(0, len(rows), BLOCK_ROWS):
        products = _products(rows[start : start + BLOCK_ROWS], centres)
        labels[start : start + BLOCK_ROWS] = np.argmax(products / norms, axis=1)
    return labels


def greedy_survivors(rows: np.ndarray, threshold: float) -> np.ndarray:
    """For each row the first kept row before it whose cosine reaches `threshold`; itself where there is none (kept).

    rows: int8 [num_rows, dimensions] in the order of preference. Holds a block of products at a time.
    """
    survivors = np.arange(len(rows))
    norms = _norms(rows)
    kept = np.zeros(0, np.int64)
    for start in range(0, len(rows), BLOCK_ROWS):
        block = np.arange(start, min(start + BLOCK_ROWS, len(rows)))
        for first in range(0, len(kept), BLOCK_ROWS):
            known = kept[first : first + BLOCK_ROWS]
            _follow(survivors, block[survivors[block] == block], known, rows, norms, threshold)
        near = _cosines(block, block, rows, norms) >= threshold
        for i in range(len(block)):
            if survivors[block[i]] == block[i]:
                later = block[i + 1 :][near[i, i + 1 :]]
                free = later[survivors[later] == later]
                survivors[free] = block[i]
        kept = np.concatenate([kept, block[survivors[block] == block]])
    return survivors


def _follow(
    survivors: np.ndarray, block: np.ndarray, known: np.ndarray, rows: np.ndarray, norms: np.ndarray, threshold: float
) -> None:
    near = _cosines(block, known, rows, norms) >= threshold
    found = near.any(axis=1)
    survivors[block[found]] = known[near[found].argmax(axis=1)]


def _cosines(left: np.ndarray, right: np.ndarray, rows: np.ndarray, norms: np.ndarray) -> np.ndarray:
    return _products(rows[left], rows[right]) / (norms[left, None] * norms[right])


def _products(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return (left.astype(np.float32) @ right.T.astype(np.float32)).astype(np.float64)


def _norms(rows: np.ndarray) -> np.ndarray:
    """Lengths; 1 for a row of zeros, which then resembles nothing."""
    squares = np.einsum("ij,ij->i", rows.astype(np.int64), rows.astype(np.int64))
    return np.sqrt(np.maximum(squares, 1).astype(np.float64))


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / _norms(rows)[:, None]
