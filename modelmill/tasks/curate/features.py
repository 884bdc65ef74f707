"""Texts → sparse rows of hashed one- and two-word counts, the input of the quality student."""

import numba
import numpy as np
import pyarrow as pa
import scipy.sparse as sparse

from modelmill.tasks.curate.words import word_hashes

NUM_FEATURES = 1 << 18
# Long pages are judged by their beginning: it bounds memory, and 8,192 words say enough about a style.
MAX_WORDS = 8192
BATCH_ROWS = 512


def hashed_features(texts: pa.ChunkedArray) -> sparse.csr_matrix:
    """float32 [num_documents, NUM_FEATURES]: log(1 + count) of hashed words and word pairs, rows of unit length."""
    batches = [_features(texts.slice(start, BATCH_ROWS)) for start in range(0, len(texts), BATCH_ROWS)]
    if not batches:
        return sparse.csr_matrix((0, NUM_FEATURES), dtype=np.float32)
    return sparse.csr_matrix(sparse.vstack(batches, format="csr"))


def _features(texts: pa.ChunkedArray) -> sparse.csr_matrix:
    words = word_hashes(texts)
    counts = np.minimum(np.diff(words.offsets), MAX_WORDS)
    borders = np.concatenate([[0], np.cumsum(np.maximum(2 * counts - 1, 0))])
    columns = np.empty(borders[-1], np.int32)
    _columns(words.hashes, words.offsets, counts, borders, columns)
    matrix = sparse.csr_matrix((np.ones(len(columns), np.float32), columns, borders), (len(counts), NUM_FEATURES))
    matrix.sum_duplicates()
    np.log1p(matrix.data, out=matrix.data)
    norms = np.sqrt(np.add.reduceat(np.append(matrix.data**2, 0), matrix.indptr[:-1]) * (np.diff(matrix.indptr) > 0))
    matrix.data /= np.repeat(norms, np.diff(matrix.indptr)).astype(np.float32)
    return matrix


@numba.njit(cache=True)
def _columns(
    hashes: np.ndarray, offsets: np.ndarray, counts: np.ndarray, borders: np.ndarray, columns: np.ndarray
) -> None:
    mask = np.uint64(NUM_FEATURES - 1)
    for row in range(len(counts)):
        target = borders[row]
        for index in range(offsets[row], offsets[row] + counts[row]):
            columns[target] = hashes[index] & mask
            target += 1
            if index > offsets[row]:
                pair = hashes[index - 1] * np.uint64(0x9E3779B97F4A7C15) ^ hashes[index]
                columns[target] = (pair >> np.uint64(20)) & mask
                target += 1
