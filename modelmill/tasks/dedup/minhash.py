"""Texts → MinHash signatures over word shingles → one hash for each band of each signature."""

import functools
import logging

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from modelmill.tasks.dedup.config import MinHash
from modelmill.tasks.dedup.normalise import normalised
from modelmill.tasks.text.characters import SINGLE, classes
from modelmill.tasks.text.flat import Characters, characters, string_array

FACTOR = np.uint64(0x9E3779B97F4A7C15)
MIXER = np.uint64(0xBF58476D1CE4E5B9)
BLOCK = 4  # shingles that one pass over a signature takes in


def band_hashes(texts: Characters, config: MinHash) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Hashes of every band (texts × bands), and the number of words of each text; without one its hashes mean nothing.

    Two texts are candidates for each other when they agree in one band.
    """
    signatures, num_words = minhash_signatures(texts, config)
    return _bands(signatures, config.bands, config.rows), num_words


def minhash_signatures(texts: Characters, config: MinHash) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """MinHash values (texts × bands·rows) of each text's set of shingles, and its number of words.

    A shingle gets one strong hash x; the i-th of the permutations of 32-bit numbers is x·factor + offset (factor odd).
    On hashed shingles each of them orders a set at random; that they are alike enough to independent ones is tested.
    """
    plain = normalised(texts)
    flags = classes()
    if config.unspaced_scripts == "jieba":
        plain = _with_jieba_words(plain)
        flags = np.zeros_like(flags)
    permutations = np.random.default_rng(config.seed).integers(
        0, 2**32, size=(2, config.bands * config.rows), dtype=np.uint32
    )
    permutations[0] |= 1
    return _signatures(plain.codes, plain.offsets, flags, config.shingle_words, permutations)


def _with_jieba_words(plain: Characters) -> Characters:
    """Put spaces between the words of texts that have characters without them."""
    single = np.concatenate([[0], np.cumsum((classes()[plain.codes] & SINGLE) != 0)])
    rows = np.flatnonzero(single[plain.offsets[1:]] > single[plain.offsets[:-1]])
    if not len(rows):
        return plain
    column = string_array(plain).to_pylist()
    for row in rows:
        column[row] = " ".join(word for word in _jieba().lcut(column[row], HMM=False) if not word.isspace())
    return characters(pa.array(column, pa.large_string()))


@functools.cache
def _jieba():
    import jieba

    jieba.setLogLevel(logging.WARNING)  # it announces its dictionary on stderr
    return jieba.Tokenizer()


@njit(cache=True, nogil=True)
def _words(codes, start, end, classes, words):
    """Hash each word between spaces, characters of scripts without spaces alone; returns their number."""
    count, inside = 0, False
    value = np.uint64(0)
    for i in range(start, end):
        code = codes[i]
        single = classes[code] & SINGLE
        if inside and (code == 32 or single):
            words[count] = value ^ (value >> np.uint64(29))
            count += 1
            inside = False
        if code == 32:
            continue
        if not inside:
            value = MIXER
        value = (value ^ np.uint64(code)) * FACTOR
        value ^= value >> np.uint64(32)
        inside = True
        if single:
            words[count] = value ^ (value >> np.uint64(29))
            count += 1
            inside = False
    if inside:
        words[count] = value ^ (value >> np.uint64(29))
        count += 1
    return count


@njit(cache=True, nogil=True)
def _signatures(codes, offsets, classes, shingle_words, permutations):
    num_rows, size = len(offsets) - 1, permutations.shape[1]
    signatures = np.full((num_rows, size), np.uint32(0xFFFFFFFF), np.uint32)
    num_words = np.zeros(num_rows, np.int64)
    longest = 0
    for row in range(num_rows):
        longest = max(longest, offsets[row + 1] - offsets[row])
    words = np.empty(longest + 1, np.uint64)
    shingles = np.empty(longest + 1 + BLOCK, np.uint32)
    for row in range(num_rows):
        count = _words(codes, offsets[row], offsets[row + 1], classes, words)
        num_words[row] = count
        if count:
            num_shingles = _shingles(words, count, min(shingle_words, count), shingles)
            _take_minima(signatures[row], shingles, num_shingles, permutations[0], permutations[1])
    return signatures, num_words


@njit(cache=True, nogil=True)
def _shingles(words, count, width, shingles):
    """Hash every `width` words in a row, the last again until their number is a multiple of BLOCK: returns that."""
    number = count - width + 1
    for first in range(number):
        value = np.uint64(width)
        for i in range(first, first + width):
            value = (value ^ words[i]) * FACTOR
            value ^= value >> np.uint64(31)
        value = (value ^ (value >> np.uint64(30))) * MIXER
        shingles[first] = np.uint32(value >> np.uint64(32))
    filled = -(-number // BLOCK) * BLOCK
    for i in range(number, filled):
        shingles[i] = shingles[number - 1]
    return filled


@njit(cache=True, nogil=True)
def _take_minima(signature, shingles, count, factors, offsets):
    """Keep the least value of each permutation. The inner loop compiles to eight 32-bit lanes, and a block of
    shingles shares the loads of its factors and the store of its minima."""
    for first in range(0, count, BLOCK):
        a, b, c, d = shingles[first], shingles[first + 1], shingles[first + 2], shingles[first + 3]
        for i in range(len(signature)):
            factor, offset = factors[i], offsets[i]
            left = min(np.uint32(a * factor + offset), np.uint32(b * factor + offset))
            right = min(np.uint32(c * factor + offset), np.uint32(d * factor + offset))
            signature[i] = min(signature[i], min(left, right))


@njit(cache=True, nogil=True)
def _bands(signatures, num_bands, num_rows):
    result = np.empty((len(signatures), num_bands), np.uint64)
    for text in range(len(signatures)):
        for band in range(num_bands):
            value = np.uint64(band + 1) * MIXER
            for i in range(band * num_rows, (band + 1) * num_rows):
                value = (value ^ np.uint64(signatures[text, i])) * FACTOR
                value ^= value >> np.uint64(32)
            value *= MIXER
            result[text, band] = value ^ (value >> np.uint64(29))
    return result
