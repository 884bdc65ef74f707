"""Column of texts → hashes of its words, hashes of whole strings, and shares of prose, read from Arrow's bytes.

A word is a run of ASCII letters and digits, underscores and non-ASCII letters, in lower case and NFKC; each Chinese
or Japanese character is a word of its own. Everything else separates. The kernels read UTF-8 in place.
Compiled functions call only those of this module: numba's cache notices no change in another file.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from typing import NamedTuple

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from modelmill.tasks.text.flat import utf8_buffers

FNV_OFFSET = np.uint64(0xCBF29CE484222325)
FNV_PRIME = np.uint64(0x100000001B3)
MIN_PROSE_WORDS = 6


class Words(NamedTuple):
    """Word hashes of all documents, end to end, and the `num_documents + 1` borders between them."""

    hashes: np.ndarray
    offsets: np.ndarray


def word_hashes(texts: pa.ChunkedArray | pa.Array) -> Words:
    """Normalise and split every text; uint64 hashes are equal in every process, release and machine."""
    data, offsets = utf8_buffers(pc.utf8_lower(pc.utf8_normalize(texts.cast(pa.large_string()), form="NFKC")))
    counts = np.zeros(len(offsets) - 1, np.int64)
    _count_words(data, offsets, counts)
    borders = np.concatenate([[0], np.cumsum(counts)])
    hashes = np.empty(borders[-1], np.uint64)
    _hash_words(data, offsets, borders, hashes)
    return Words(hashes, borders)


def string_hashes(strings: pa.ChunkedArray | pa.Array, salt: int) -> np.ndarray:
    """One well-mixed uint64 for each string; `salt` gives independent hashes of the same strings."""
    data, offsets = utf8_buffers(strings)
    hashes = np.empty(len(offsets) - 1, np.uint64)
    _hash_strings(data, offsets, np.uint64(salt), hashes)
    return hashes


def prose_shares(texts: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Share of each text's non-space characters that lie in lines of running prose, float64 in 0..1.

    Such a line has at least six words, begins with a letter, and at most a tenth of its characters are neither letters
    nor plain punctuation: sentences pass; signatures, tables, code and lists of names do not.
    """
    data, offsets = utf8_buffers(texts)
    shares = np.zeros(len(offsets) - 1)
    _prose_shares(data, offsets, shares)
    return shares


@numba.njit(cache=True)
def _decode(data: np.ndarray, position: int):
    """Code point at `position` of valid UTF-8, and its length in bytes."""
    lead = np.int64(data[position])
    if lead < 0x80:
        return lead, 1
    if lead < 0xE0:
        return (lead & 0x1F) << 6 | np.int64(data[position + 1]) & 0x3F, 2
    if lead < 0xF0:
        high = (lead & 0x0F) << 12 | (np.int64(data[position + 1]) & 0x3F) << 6
        return high | np.int64(data[position + 2]) & 0x3F, 3
    high = (lead & 0x07) << 18 | (np.int64(data[position + 1]) & 0x3F) << 12
    return high | (np.int64(data[position + 2]) & 0x3F) << 6 | np.int64(data[position + 3]) & 0x3F, 4


SEPARATOR, LETTER, IDEOGRAPH = 0, 1, 2


@numba.njit(cache=True)
def _kind(point):
    """Separator, part of a word, or a character that is a word by itself."""
    if point < 0x80:
        letter = 97 <= point <= 122 or 48 <= point <= 57 or point == 95 or 65 <= point <= 90
        return LETTER if letter else SEPARATOR
    if 0x2E80 <= point < 0x3000 or 0x3040 <= point < 0xA4D0 or 0xF900 <= point < 0xFB00:
        return IDEOGRAPH
    if 0x20000 <= point < 0x40000:
        return IDEOGRAPH
    # Latin-1 signs, general punctuation to box drawing and arrows, CJK punctuation, full-width punctuation
    if point < 0xC0 or point in (0xD7, 0xF7) or 0x2000 <= point < 0x2C00 or 0x3000 <= point < 0x3040:
        return SEPARATOR
    return SEPARATOR if 0xFE10 <= point < 0xFE70 or 0xFF00 <= point < 0xFF10 else LETTER


@numba.njit(cache=True)
def _count_words(data: np.ndarray, offsets: np.ndarray, counts: np.ndarray) -> None:
    for row in range(len(counts)):
        position, inside = offsets[row], False
        while position < offsets[row + 1]:
            point, length = _decode(data, position)
            kind = _kind(point)
            if kind == IDEOGRAPH or (kind == LETTER and not inside):
                counts[row] += 1
            inside = kind == LETTER
            position += length


@numba.njit(cache=True)
def _hash_words(data: np.ndarray, offsets: np.ndarray, borders: np.ndarray, hashes: np.ndarray) -> None:
    for row in range(len(offsets) - 1):
        position, word, inside = offsets[row], borders[row] - 1, False
        while position < offsets[row + 1]:
            point, length = _decode(data, position)
            kind = _kind(point)
            if kind == IDEOGRAPH or (kind == LETTER and not inside):
                word += 1
                hashes[word] = FNV_OFFSET
            inside = kind == LETTER
            if kind != SEPARATOR:
                for byte in range(position, position + length):
                    hashes[word] = (hashes[word] ^ np.uint64(data[byte])) * FNV_PRIME
            position += length
    for word in range(len(hashes)):
        hashes[word] = _mixed(hashes[word])


@numba.njit(cache=True)
def _mixed(value: np.uint64) -> np.uint64:
    """Spread every input bit over every output bit (the finaliser of SplitMix64)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@numba.njit(cache=True)
def _hash_strings(data: np.ndarray, offsets: np.ndarray, salt: np.uint64, hashes: np.ndarray) -> None:
    for row in range(len(hashes)):
        value = FNV_OFFSET ^ _mixed(salt + np.uint64(1))
        for byte in range(offsets[row], offsets[row + 1]):
            value = (value ^ np.uint64(data[byte])) * FNV_PRIME
        hashes[row] = _mixed(value)


@numba.njit(cache=True)
def _prose_shares(data: np.ndarray, offsets: np.ndarray, shares: np.ndarray) -> None:
    for row in range(len(shares)):
        total = prose = 0
        line = words = letters = plain = 0
        inside = starts_with_letter = False
        position = offsets[row]
        while position <= offsets[row + 1]:
            at_end = position == offsets[row + 1]
            point, length = (10, 1) if at_end else _decode(data, position)
            position += length
            if point == 10:
                if words >= MIN_PROSE_WORDS and starts_with_letter and 10 * (line - letters - plain) <= line:
                    prose += line
                total += line
                line = words = letters = plain = 0
                inside = starts_with_letter = False
                continue
            if point == 32 or point == 9 or point == 13 or point == 0xA0:
                inside = False
                continue
            kind = _kind(point)
            is_letter = kind == IDEOGRAPH or (kind == LETTER and point != 95 and not 48 <= point <= 57)
            if line == 0:
                starts_with_letter = is_letter
            if kind == IDEOGRAPH or not inside:
                words += 1
            inside = True
            line += 1
            letters += is_letter
            # , . ; : ! ? ' and the CJK comma and full stop, full-width comma
            plain += point in (44, 46, 59, 58, 33, 63, 39, 0x3001, 0x3002, 0xFF0C)
        shares[row] = prose / total if total else 0.0
