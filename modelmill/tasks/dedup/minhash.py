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


def band_hashes(texts: Characters, config: MinHash) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Hashes of every band (texts × bands), and which texts have a word at all.

    Two texts are candidates for each other when they agree in one band.
    """
    signatures, has_words = minhash_signatures(texts, config)
    return _bands(signatures, config.bands, config.rows), has_words


def minhash_signatures(texts: Characters, config: MinHash) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
    """MinHash values (texts × bands·rows) of each text's set of shingles, and which texts have a word at all."""
    plain = normalised(texts)
    flags = classes()
    if config.unspaced_scripts == "jieba":
        plain = _with_jieba_words(plain)
        flags = np.zeros_like(flags)
    seeds = np.random.default_rng(config.seed).integers(1, 2**32, size=config.bands * config.rows, dtype=np.uint32)
    return _signatures(plain.codes, plain.offsets, flags, config.shingle_words, seeds)


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
def _signatures(codes, offsets, classes, shingle_words, seeds):
    num_rows, size = len(offsets) - 1, len(seeds)
    signatures = np.full((num_rows, size), np.uint32(0xFFFFFFFF), np.uint32)
    has_words = np.zeros(num_rows, np.bool_)
    longest = 0
    for row in range(num_rows):
        longest = max(longest, offsets[row + 1] - offsets[row])
    words = np.empty(longest + 1, np.uint64)
    for row in range(num_rows):
        count = _words(codes, offsets[row], offsets[row + 1], classes, words)
        has_words[row] = count > 0
        width = min(shingle_words, count)
        signature = signatures[row]
        for first in range(count - width + 1 if count else 0):
            value = np.uint64(width)
            for i in range(first, first + width):
                value = (value ^ words[i]) * FACTOR
                value ^= value >> np.uint64(31)
            value = (value ^ (value >> np.uint64(30))) * MIXER
            _take_minimum(signature, np.uint32(value >> np.uint64(32)), seeds)
    return signatures, has_words


@njit(cache=True, nogil=True)
def _take_minimum(signature, shingle, seeds):
    """Hash one shingle with every seed (murmur3's 32-bit finaliser), keep the minima. The loop is vectorised."""
    for i in range(len(seeds)):
        value = np.uint32(shingle ^ seeds[i])
        value = np.uint32((value ^ (value >> np.uint32(16))) * np.uint32(0x85EBCA6B))
        value = np.uint32((value ^ (value >> np.uint32(13))) * np.uint32(0xC2B2AE35))
        value = np.uint32(value ^ (value >> np.uint32(16)))
        signature[i] = min(signature[i], value)


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
