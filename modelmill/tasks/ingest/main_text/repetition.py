"""Keys of blocks or elements → which of them are alike: templates, repeated texts, siblings of one class."""

import numpy as np
from numba import njit

from modelmill.tasks.ingest.main_text.reading import PRIME
from modelmill.tasks.ingest.main_text.statistics import HASH_HIGH, HASH_LOW

_ONE = np.uint64(1)


@njit(cache=True, nogil=True)
def grouped(keys):
    """How often each key of 64 bits occurs, and the number of its group: both (keys,)."""
    size = 16
    while size < 2 * len(keys):
        size *= 2
    mask = np.uint64(size - 1)
    first_of_slot = np.full(size, -1, np.int32)
    totals, counts, group = np.zeros_like(first_of_slot), np.zeros(len(keys), np.int32), np.zeros(len(keys), np.int32)
    for i in range(len(keys)):
        key = keys[i]
        slot = (key ^ (key >> np.uint64(32))) * PRIME & mask
        while first_of_slot[slot] >= 0 and keys[first_of_slot[slot]] != key:
            slot = (slot + _ONE) & mask
        if first_of_slot[slot] < 0:
            first_of_slot[slot] = i
        group[i] = first_of_slot[slot]
        totals[group[i]] += 1
    for i in range(len(keys)):
        counts[i] = totals[group[i]]
    return counts, group


@njit(cache=True, nogil=True)
def templates(parent, signature, element, inner):
    """Keys of blocks of the same template: the same tags and classes on the block and on what it lies in."""
    near, far = np.zeros(len(element), np.uint64), np.zeros(len(element), np.uint64)
    for block in range(len(element)):
        number = element[block]
        near[block] = (signature[inner[block]] * PRIME ^ signature[number]) * PRIME ^ signature[parent[number]]
        above = parent[parent[number]]
        far[block] = (near[block] * PRIME ^ signature[above]) * PRIME ^ signature[parent[above]]
    return near, far


@njit(cache=True, nogil=True)
def text_keys(statistics):
    """Keys of blocks of the same text, from the two halves of its hash."""
    keys = np.zeros(len(statistics), np.uint64)
    for block in range(len(statistics)):
        low, high = np.uint64(statistics[block, HASH_LOW]), np.uint64(statistics[block, HASH_HIGH])
        keys[block] = (low << np.uint64(24)) | high
    return keys


@njit(cache=True, nogil=True)
def sibling_keys(parent, signature):
    """Keys of elements beside each other with the same tag and classes: cards, comments, rows of a list."""
    keys = np.zeros(len(parent), np.uint64)
    for number in range(len(parent)):
        keys[number] = (signature[number] ^ np.uint64(parent[number])) * PRIME
    return keys
