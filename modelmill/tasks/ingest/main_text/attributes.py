"""Attributes of a start tag → flags, keywords and names of its element."""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from modelmill.tasks.ingest.main_text.reading import (
    EQUALS,
    GREATER,
    SLASH,
    contains,
    hash_of_classes,
    is_space,
    keyword_groups,
    looked_up,
    name_at,
    value_at,
    word,
)
from modelmill.tasks.ingest.main_text.vocabulary import ATTRIBUTE

# Flags of an element: not shown; named as a drawn formula; holds TeX; a link with an address; structured data.
HIDDEN, MATH_NAME, TEX, HAS_LINK, JSON_LD = 1, 2, 4, 8, 16

_CLASS, _ID, _ROLE, _ITEMPROP, _HREF, _STYLE = (
    ATTRIBUTE[name] for name in ("class", "id", "role", "itemprop", "href", "style")
)
_HIDDEN, _ARIA_HIDDEN, _TYPE, _ENCODING, _ALT = (
    ATTRIBUTE[name] for name in ("hidden", "aria-hidden", "type", "encoding", "alt")
)
_NOT_DISPLAYED, _NOT_VISIBLE, _TEX_WORD, _MATH_WORD, _LD_WORD = map(
    word, ("display:none", "visibility:hidden", "tex", "math", "ld+json")
)


class Words(NamedTuple):
    """What the parser knows of names: hash tables of tags and attributes, and the automaton of keywords."""

    tag_hashes: NDArray[np.uint64]
    tag_numbers: NDArray[np.uint8]
    attribute_hashes: NDArray[np.uint64]
    attribute_numbers: NDArray[np.uint8]
    automaton: NDArray[np.uint16]
    found: NDArray[np.uint64]


@njit(cache=True, nogil=True)
def read_attributes(content, position, end, words, element, keywords, signature, flags, names):
    """Read the attributes from a position on into an element → position of the tag's end, whether it closes itself."""
    self_closing = False
    while position < end and content[position] != GREATER:
        byte = content[position]
        if is_space(byte):
            position += 1
            continue
        if byte == SLASH:
            self_closing = position + 1 < end and content[position + 1] == GREATER
            position += 1
            continue
        attribute, stop_of_name = name_at(content, position, end)
        if stop_of_name == position:  # an equals sign where a name should be
            position += 1
            continue
        position = stop_of_name
        while position < end and is_space(content[position]):
            position += 1
        start, stop = position, position
        if position < end and content[position] == EQUALS:
            start, stop, position = value_at(content, position + 1, end)
        kind = looked_up(attribute, words.attribute_hashes, words.attribute_numbers)
        if kind in (_CLASS, _ID, _ROLE, _ITEMPROP):
            keywords[element] |= keyword_groups(content, start, stop, words.automaton, words.found)
            if kind == _CLASS:
                names[element, 0], names[element, 1] = start, stop
                signature[element] = hash_of_classes(content, start, stop, signature[element])
            elif kind == _ID:
                names[element, 2], names[element, 3] = start, stop
        elif kind == _ALT:
            names[element, 4], names[element, 5] = start, stop
        if kind:
            flags[element] |= _flag(content, start, stop, kind)
    return position, self_closing


@njit(cache=True, nogil=True)
def _flag(content, start, stop, kind):
    """Flags that an attribute's value sets."""
    flags = np.uint8(0)
    if kind == _CLASS:
        if contains(content, start, stop, _MATH_WORD) or contains(content, start, stop, _TEX_WORD):
            flags = MATH_NAME
    elif kind == _HIDDEN:
        flags = HIDDEN
    elif kind == _ARIA_HIDDEN:
        if stop > start and content[start] | 32 == 116:  # true
            flags = HIDDEN
    elif kind == _STYLE:
        if contains(content, start, stop, _NOT_DISPLAYED) or contains(content, start, stop, _NOT_VISIBLE):
            flags = HIDDEN
    elif kind == _HREF:
        flags = HAS_LINK
    elif kind in (_TYPE, _ENCODING):
        if contains(content, start, stop, _TEX_WORD):
            flags = TEX
        if contains(content, start, stop, _LD_WORD):
            flags |= JSON_LD
    return np.uint8(flags)
