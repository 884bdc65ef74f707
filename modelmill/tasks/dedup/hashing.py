"""Strings → 64-bit hashes, computed over a whole column at once."""

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from modelmill.tasks.text.flat import utf8_buffers

# Odd constants with well spread bits (the golden ratio's, and those of splitmix64).
_FACTORS = np.array([0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB], np.uint64)


def string_hashes(column: pa.ChunkedArray | pa.Array, seed: int = 0) -> NDArray[np.uint64]:
    """A hash of each string's UTF-8 bytes; a null hashes like an empty string."""
    data, offsets = utf8_buffers(column)
    return _hash_rows(data, offsets, _FACTORS, np.uint64(seed))


def code_hashes(codes: NDArray[np.uint32], offsets: NDArray[np.int64], seed: int = 0) -> NDArray[np.uint64]:
    """A hash of each row of code points; two seeds give independent hashes."""
    return _hash_rows(codes, offsets, _FACTORS, np.uint64(seed))


def mixed(*hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One hash of several columns of hashes."""
    result = np.zeros(len(hashes[0]), np.uint64)
    for column in hashes:
        result = (result ^ column) * _FACTORS[0]
        result ^= result >> np.uint64(32)
    return result


@njit(cache=True, nogil=True)
def _hash_rows(values, offsets, factors, seed):
    hashes = np.empty(len(offsets) - 1, np.uint64)
    for row in range(len(offsets) - 1):
        value = (seed + np.uint64(1)) * factors[2] ^ np.uint64(offsets[row + 1] - offsets[row])
        for i in range(offsets[row], offsets[row + 1]):
            value = (value ^ np.uint64(values[i])) * factors[0]
            value ^= value >> np.uint64(29)
        value *= factors[1]
        value ^= value >> np.uint64(32)
        value *= factors[2]
        hashes[row] = value ^ (value >> np.uint64(29))
    return hashes
