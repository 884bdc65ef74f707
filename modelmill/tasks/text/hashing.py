"""Stretches of code points → 64-bit hashes."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

# FNV-1a's, for 64 bits.
SEED = np.uint64(0xCBF29CE484222325)
FACTOR = np.uint64(0x100000001B3)


def stretch_hashes(codes: NDArray[np.uint32], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.uint64]:
    """FNV-1a over the code points of each stretch, mixed so that all bits differ."""
    return _hashes(codes, starts, ends)


def hash_word(word: str) -> int:
    """The hash of one word."""
    codes = np.array([ord(character) for character in word], np.uint32)
    return int(_hashes(codes, np.array([0]), np.array([len(codes)]))[0])


@njit(cache=True, nogil=True)
def _hashes(codes, starts, ends):
    hashes = np.empty(len(starts), np.uint64)
    for word in range(len(starts)):
        value = SEED
        for i in range(starts[word], ends[word]):
            value = (value ^ np.uint64(codes[i])) * FACTOR
        value ^= value >> np.uint64(32)
        value *= np.uint64(0x9E3779B97F4A7C15)
        hashes[word] = value ^ (value >> np.uint64(29))
    return hashes
