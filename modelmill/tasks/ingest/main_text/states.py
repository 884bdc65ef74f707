"""Elements of a page → what each inherits: whether its text is shown, is a link, preformatted, a formula ..."""

import numpy as np
from numba import njit

from modelmill.tasks.ingest.main_text.attributes import HAS_LINK, HIDDEN, MATH_NAME, TEX
from modelmill.tasks.ingest.main_text.vocabulary import TAG, tag_flags

# Inherited state of an element.
SKIPPED, IN_LINK, IN_HIDDEN, IN_PRE, IN_HEADING, IN_EMPHASIS, IN_BUTTON, IN_FORMULA = 1, 2, 4, 8, 16, 32, 64, 128

_SKIPPED_TAGS = (
    "head", "script", "style", "template", "svg", "textarea", "iframe", "object", "canvas", "select", "option",
    "noembed", "noframes", "audio", "video", "map",
)  # fmt: skip
_OF_TAG = np.zeros(len(tag_flags(())), np.uint8)
for _state, _names in (
    (SKIPPED, _SKIPPED_TAGS),
    (IN_PRE, ("pre", "listing", "xmp")),
    (IN_HEADING, ("h1", "h2", "h3", "h4", "h5", "h6")),
    (IN_EMPHASIS, ("b", "strong", "em", "mark")),
    (IN_BUTTON, ("button",)),
):
    _OF_TAG[tag_flags(_names)] = _state
_OF_TAG.flags.writeable = False
_A, _MATH, _ANNOTATION, _SCRIPT = (TAG[name] for name in ("a", "math", "annotation", "script"))
_SHOWN = 0xFF ^ SKIPPED


@njit(cache=True, nogil=True)
def inherited_states(tag, parent, flags, state):
    """Fill the state of every element: (elements,) uint8, zeros before."""
    has_source = _formulas_with_source(tag, parent, flags)
    for element in range(1, len(tag)):
        number, own = tag[element], flags[element]
        value = np.int64(state[parent[element]]) | np.int64(_OF_TAG[number])
        if number == _A and own & HAS_LINK:
            value |= IN_LINK
        elif number in (_MATH, _ANNOTATION, _SCRIPT):
            value = _state_in_formula(number, value, own & TEX != 0, has_source[element])
        if own & HIDDEN:
            # A formula drawn a second time for the eye, beside its readable form.
            if own & MATH_NAME:
                value |= SKIPPED
            if not value & IN_FORMULA:
                value |= IN_HIDDEN
        state[element] = value


@njit(cache=True, nogil=True)
def _formulas_with_source(tag, parent, flags):
    """Which elements are math that carries its TeX as an annotation."""
    has_source = np.zeros(len(tag), np.bool_)
    for element in range(1, len(tag)):
        if tag[element] == _ANNOTATION and flags[element] & TEX:
            ancestor = parent[element]
            while ancestor > 0 and tag[ancestor] != _MATH:
                ancestor = parent[ancestor]
            has_source[ancestor] = True
    return has_source


@njit(cache=True, nogil=True)
def _state_in_formula(number, value, is_tex, has_source):
    """State of math, annotation or script: of a formula only its TeX is shown, where it has one."""
    if number == _MATH:
        return value | (SKIPPED | IN_FORMULA) if has_source else value
    if number == _SCRIPT:
        return (value & _SHOWN) | IN_FORMULA if is_tex else value
    return value & _SHOWN if is_tex and value & IN_FORMULA else value | SKIPPED
