"""HTML's elements → the groups that the features count and measure distances to."""

import numpy as np
from numpy.typing import NDArray

from modelmill.tasks.ingest.main_text.vocabulary import TAG, TAGS

# Groups of elements whose distance above a block is a feature.
TAG_GROUPS: tuple[tuple[str, ...], ...] = (
    ("nav",), ("header",), ("footer",), ("aside",), ("main",), ("article",), ("section",), ("form",),
    ("ul", "ol", "menu"), ("li",), ("table",), ("tr",), ("td",), ("th",), ("dl",), ("dt",), ("dd",), ("blockquote",),
    ("pre", "xmp", "listing"), ("figure",), ("figcaption", "caption"), ("details",), ("summary",), ("dialog",),
    ("button",), ("a",), ("h1",), ("h2",), ("h3",), ("h4", "h5", "h6"), ("p",), ("label", "legend"), ("address",),
    ("noscript",), ("time",), ("code", "kbd", "samp"), ("span",), ("strong", "b"), ("em", "i"), ("other",),
)  # fmt: skip
NUM_TAG_GROUPS = len(TAG_GROUPS)


def _groups() -> NDArray[np.int16]:
    """Group of each of TAGS, -1 for none: read-only."""
    table = np.full(len(TAGS), -1, np.int16)
    for group, names in enumerate(TAG_GROUPS):
        for name in names:
            table[TAG[name]] = group
    table.flags.writeable = False
    return table


GROUP_OF_TAG = _groups()
