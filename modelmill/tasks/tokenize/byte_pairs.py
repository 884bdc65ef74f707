"""Pieces of text and the merges of a byte-level BPE → the token ids of each piece, in compiled code.

The lowest-ranked pair of neighbours is merged, the leftmost of equals first, until none can be: what the tokenizers
library computes with a queue. Pieces are short, so looking through the neighbours is faster than keeping a queue.
"""

import json
from typing import NamedTuple

import numba
import numpy as np
from tokenizers import Tokenizer, pre_tokenizers

# A table entry is left id, right id and rank in one word: 20 + 20 + 20 bits. `tokenize` allows no larger vocabulary.
ID_BITS = 20
NO_RANK = np.int64(1 << ID_BITS)
# Work grows with the square of a piece's length. Longer ones, a few in a million, are left to the library.
MAX_PIECE_BYTES = 512


class BytePairs(NamedTuple):
    """The merges of a byte-level BPE.

    byte_ids: token of each byte, int32 [256].
    entries: open addressing table of packed (left, right, rank), uint64, a power of two; 0 is free (ranks begin at 1).
    results: token that the merge of each rank makes, int32 [num_merges + 1].
    """

    byte_ids: np.ndarray
    entries: np.ndarray
    results: np.ndarray


def byte_pairs(tokenizer: Tokenizer) -> BytePairs | None:
    """The tables of a tokenizer whose model merges bytes and does nothing else; None for any other model."""
    model = json.loads(tokenizer.to_str())["model"]
    plain = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")
    if model["type"] != "BPE" or any(model.get(name) for name in plain):
        return None
    vocabulary: dict[str, int] = model["vocab"]
    characters = byte_characters()
    if max(len(model["merges"]), *vocabulary.values()) >= 1 << ID_BITS:
        return None
    if not all(character in vocabulary for character in characters):
        return None
    byte_ids = np.array([vocabulary[character] for character in characters], np.int32)
    merges = [(vocabulary[left], vocabulary[right], vocabulary[left + right]) for left, right in model["merges"]]
    table = np.array(merges, np.int64).reshape(-1, 3)
    entries = np.zeros(1 << (2 * len(table)).bit_length(), np.uint64)
    _fill_entries(table, entries)
    return BytePairs(byte_ids, entries, np.concatenate([[0], table[:, 2]]).astype(np.int32))


def piece_tokens(
    pairs: BytePairs, data: np.ndarray, starts: np.ndarray, ends: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of the pieces data[starts[n]:ends[n]] end to end (int32), and the borders between pieces (int64).

    A piece of more than MAX_PIECE_BYTES gets no token: it is the caller's.
    """
    lengths = ends - starts
    tokens = np.empty(lengths[lengths <= MAX_PIECE_BYTES].sum(), np.int32)  # at most one a byte
    borders = np.zeros(len(starts) + 1, np.int64)
    _merge_pieces(data, starts, ends, pairs.byte_ids, pairs.entries, pairs.results, tokens, borders)
    return tokens[: borders[-1]], borders


def byte_characters() -> list[str]:
    """The character that stands for each byte in a byte-level vocabulary, as GPT-2 laid them out.

    Bytes that print in Latin-1 stand for themselves; the others take the characters from U+0100 on, in order.
    """
    themselves = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in themselves]
    characters = [chr(byte if byte in themselves else 0x100 + others.index(byte)) for byte in range(256)]
    assert sorted(characters) == sorted(pre_tokenizers.ByteLevel.alphabet())
    return characters


@numba.njit(cache=True, nogil=True)
def _slot(pair, size):
    """Where the search for a pair begins in a table of `size` entries."""
    return np.int64((pair * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)) & (size - 1)


@numba.njit(cache=True, nogil=True)
def _fill_entries(merges, entries):
    for merge in range(len(merges)):
        pair = np.uint64(merges[merge, 0] << ID_BITS | merges[merge, 1])
        slot = _slot(pair, len(entries))
        while entries[slot] != 0 and entries[slot] >> np.uint64(ID_BITS) != pair:
            slot = (slot + 1) & (len(entries) - 1)
        entries[slot] = pair << np.uint64(ID_BITS) | np.uint64(merge + 1)


@numba.njit(cache=True, nogil=True)
def _rank(entries, left, right):
    """Rank of the merge of two tokens, from 1; NO_RANK where there is none."""
    pair = np.uint64(np.int64(left) << ID_BITS | np.int64(right))
    slot = _slot(pair, len(entries))
    while entries[slot] != 0:
        if entries[slot] >> np.uint64(ID_BITS) == pair:
            return np.int64(entries[slot] & np.uint64(NO_RANK - 1))
        slot = (slot + 1) & (len(entries) - 1)
    return NO_RANK


@numba.njit(cache=True, nogil=True)
def _merge_pieces(data, starts, ends, byte_ids, entries, results, tokens, borders):
    ranks = np.empty(MAX_PIECE_BYTES, np.int64)
    first = 0
    for piece in range(len(starts)):
        length = ends[piece] - starts[piece]
        if length <= MAX_PIECE_BYTES:
            ids = tokens[first : first + length]  # merged in place
            for place in range(length):
                ids[place] = byte_ids[data[starts[piece] + place]]
            first += _merge(ids, length, ranks, entries, results)
        borders[piece + 1] = first


@numba.njit(cache=True, nogil=True)
def _merge(ids, length, ranks, entries, results):
    """Merge ids[:length] in place; returns how many are left. `ranks` is room for the rank of each pair."""
    for place in range(length - 1):
        ranks[place] = _rank(entries, ids[place], ids[place + 1])
    while length > 1:
        best = 0
        for place in range(1, length - 1):
            if ranks[place] < ranks[best]:
                best = place
        if ranks[best] == NO_RANK:
            break
        ids[best] = results[ranks[best]]
        for place in range(best + 1, length - 1):
            ids[place] = ids[place + 1]
            ranks[place - 1] = ranks[place]
        length -= 1
        if best > 0:
            ranks[best - 1] = _rank(entries, ids[best - 1], ids[best])
        if best < length - 1:
            ranks[best] = _rank(entries, ids[best], ids[best + 1])
    return length
