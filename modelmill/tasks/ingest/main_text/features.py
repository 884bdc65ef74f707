"""Elements and blocks of a page → what the models see: one row of features for each block, and one for the page.

None of the features knows a language: they are lengths, shares, positions, HTML's own names, and stems in class names,
which authors of pages in all languages take from English.
"""

import re

import numpy as np
from numba import njit
from numpy.typing import NDArray

from modelmill.tasks.ingest.main_text.blocks import (
    AT_SIGNS,
    CAPITALISED,
    CHARACTERS,
    COMMAS,
    COPYRIGHTS,
    CURRENCY,
    DIGIT_GROUPS,
    DIGITS,
    EMPHASIS_CHARACTERS,
    ENDS_COLON,
    ENDS_TERMINAL,
    HASH_HIGH,
    HASH_LOW,
    IN_BUTTON,
    IN_HEADING,
    IN_HIDDEN,
    IN_PRE,
    LETTERS,
    LINK_CHARACTERS,
    LINKS,
    LONGEST_WORD,
    PUNCTUATIONS,
    QUESTION,
    RUNS,
    SEPARATORS,
    SINGLES,
    STARTS_DIGIT,
    STARTS_UPPER,
    TERMINALS,
    UPPERS,
    WORDS,
    Blocks,
)
from modelmill.tasks.ingest.main_text.attributes import JSON_LD
from modelmill.tasks.ingest.main_text.parse import Markup
from modelmill.tasks.ingest.main_text.vocabulary import NUM_KEYWORDS, TAG, TAGS

# Groups of elements whose distance above a block is a feature.
TAG_GROUPS: tuple[tuple[str, ...], ...] = (
    ("nav",), ("header",), ("footer",), ("aside",), ("main",), ("article",), ("section",), ("form",),
    ("ul", "ol", "menu"), ("li",), ("table",), ("tr",), ("td",), ("th",), ("dl",), ("dt",), ("dd",), ("blockquote",),
    ("pre", "xmp", "listing"), ("figure",), ("figcaption", "caption"), ("details",), ("summary",), ("dialog",),
    ("button",), ("a",), ("h1",), ("h2",), ("h3",), ("h4", "h5", "h6"), ("p",), ("label", "legend"), ("address",),
    ("noscript",), ("time",), ("code", "kbd", "samp"), ("span",), ("strong", "b"), ("em", "i"), ("other",),
)  # fmt: skip
_LEVELS = (1, 2, 3, 4, 6, 8)
_OFFSETS = (-3, -2, -1, 1, 2, 3)
_FAR = 20.0
_PRIME = np.uint64(0x100000001B3)

_TYPES = (
    "Article", "NewsArticle", "BlogPosting", "TechArticle", "Product", "Offer", "AggregateRating", "Review",
    "DiscussionForumPosting", "QAPage", "Question", "Comment", "ItemList", "CollectionPage", "ListItem", "FAQPage",
    "Organization", "LocalBusiness", "Service", "WebPage", "WebSite", "BreadcrumbList", "Person", "Recipe", "Event",
    "VideoObject", "SoftwareApplication", "ImageObject",
)  # fmt: skip
_TYPE_PATTERN = re.compile(rb'"@type"\s*:\s*\[?\s*"(\w+)"')
_OPEN_GRAPH = re.compile(rb"""og:type["'][^>]{0,40}content=["'](\w+)|content=["'](\w+)["'][^>]{0,40}og:type["']""")
_OPEN_GRAPH_TYPES = ("article", "website", "product", "profile", "video", "book", "object", "blog")
_GENERATORS = (
    b"discourse", b"wordpress", b"shopify", b"woocommerce", b"phpbb", b"vbulletin", b"xenforo", b"sphinx", b"mkdocs",
    b"docusaurus", b"readthedocs", b"magento", b"wix.com", b"squarespace", b"drupal", b"hubspot", b"mediawiki",
    b"stackexchange", b"reddit", b"webflow", b"elementor", b"bigcommerce", b"gitbook", b"doxygen", b"javadoc", b"smf",
)  # fmt: skip
_HEAD_BYTES = 60_000


def _groups() -> NDArray[np.int16]:
    table = np.full(len(TAGS), -1, np.int16)
    for group, names in enumerate(TAG_GROUPS):
        for name in names:
            table[TAG[name]] = group
    table.flags.writeable = False
    return table


_GROUP = _groups()
_NUM_GROUPS = len(TAG_GROUPS)
_BLOCK_LEVEL = ~np.isin(
    np.arange(len(TAGS)), [TAG[name] for name in ("span", "a", "b", "strong", "i", "em", "font", "other", "u", "small")]
)
_H1, _P, _LI, _TD, _MAIN, _ARTICLE, _FORM, _INPUT, _NOSCRIPT, _IMG, _A = (
    TAG[name] for name in ("h1", "p", "li", "td", "main", "article", "form", "input", "noscript", "img", "a")
)
_H2, _H6 = TAG["h2"], TAG["h6"]

NUM_TEXT = 26
NUM_POSITION = 14
NUM_LEVEL = 6
NUM_NEIGHBOUR = 7
NUM_PAGE_BASE = 22
NUM_GROUP = 14
NUM_BLOCK_FEATURES = (
    NUM_TEXT
    + 2 * 0
    + _NUM_GROUPS
    + NUM_KEYWORDS
    + NUM_POSITION
    + NUM_LEVEL * len(_LEVELS)
    + NUM_NEIGHBOUR * len(_OFFSETS)
    + 6
    + NUM_GROUP
    + 9
)
_CONTEXT_OFFSETS = (-4, -3, -2, -1, 1, 2, 3, 4)
_CONTEXT_WIDTHS = (2, 5, 12)
NUM_CONTEXT_FEATURES = 10 + len(_CONTEXT_OFFSETS) + len(_CONTEXT_WIDTHS) + len(_LEVELS) + 1
NUM_PAGE_FEATURES = NUM_PAGE_BASE + NUM_KEYWORDS + _NUM_GROUPS + len(_TYPES) + len(_OPEN_GRAPH_TYPES) + len(_GENERATORS)


def page_features(page: Markup, blocks: Blocks) -> NDArray[np.float32]:
    """Features of the whole page, for its type: (NUM_PAGE_FEATURES,)."""
    row = np.zeros(NUM_PAGE_FEATURES, np.float32)
    column = NUM_PAGE_BASE + NUM_KEYWORDS + _NUM_GROUPS
    _page_features(page.tag, page.keywords, blocks.state, blocks.inner, blocks.element, blocks.statistics, _GROUP, row)
    types = {name.encode(): column + number for number, name in enumerate(_TYPES)}
    for run in np.flatnonzero(page.flags[page.run_element] & JSON_LD):
        text = page.content[page.run_start[run] : page.run_end[run]].tobytes()
        for name in _TYPE_PATTERN.findall(text):
            if name in types:
                row[types[name]] += 1
    row[column : column + len(_TYPES)] = np.log1p(row[column : column + len(_TYPES)])
    column += len(_TYPES)
    head = page.content[:_HEAD_BYTES].tobytes().lower()
    if found := _OPEN_GRAPH.search(head):
        name = (found.group(1) or found.group(2)).decode()
        if name in _OPEN_GRAPH_TYPES:
            row[column + _OPEN_GRAPH_TYPES.index(name)] = 1
    column += len(_OPEN_GRAPH_TYPES)
    for number, name in enumerate(_GENERATORS):
        row[column + number] = name in head
    return row


def block_features(page: Markup, blocks: Blocks) -> NDArray[np.float32]:
    """Features of each block: (blocks, NUM_BLOCK_FEATURES)."""
    return _block_features(
        page.tag, page.parent, page.depth, page.last, page.keywords, page.signature, blocks.state, blocks.element,
        blocks.inner, blocks.soft, blocks.statistics, _GROUP, _BLOCK_LEVEL,
    )  # fmt: skip


def context_features(page: Markup, blocks: Blocks, scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the first scores of the other blocks say about each: (blocks, NUM_CONTEXT_FEATURES)."""
    return _context_features(
        page.tag, page.parent, page.signature, blocks.element, blocks.inner, blocks.statistics, _BLOCK_LEVEL, scores
    )


@njit(cache=True, nogil=True)
def _context_features(tag, parent, signature, element, inner, statistics, block_level, scores):
    num_blocks, count = len(element), len(tag)
    features = np.zeros((num_blocks, NUM_CONTEXT_FEATURES), np.float32)
    if num_blocks == 0:
        return features
    sums = np.zeros((count, 2), np.float32)
    mass, words = np.zeros(num_blocks + 1, np.float32), np.zeros(num_blocks + 1, np.float32)
    for block in range(num_blocks):
        of_block = statistics[block, WORDS] + np.float32(1)
        sums[element[block], 0] += of_block
        sums[element[block], 1] += of_block * scores[block]
        words[block + 1] = words[block] + of_block
        mass[block + 1] = mass[block] + of_block * scores[block]
    for number in range(count - 1, 0, -1):
        sums[parent[number], 0] += sums[number, 0]
        sums[parent[number], 1] += sums[number, 1]
    near, far = _templates(parent, signature, element, inner)
    near_counts, near_group = _counts_of_equal(near)
    far_counts, far_group = _counts_of_equal(far)
    near_sums, far_sums = np.zeros((num_blocks, 2), np.float32), np.zeros((num_blocks, 2), np.float32)
    for block in range(num_blocks):
        of_block = statistics[block, WORDS] + np.float32(1)
        near_sums[near_group[block], 0] += of_block
        near_sums[near_group[block], 1] += of_block * scores[block]
        far_sums[far_group[block], 0] += of_block
        far_sums[far_group[block], 1] += of_block * scores[block]
    order = np.argsort(-scores)
    rank = np.zeros(num_blocks, np.float32)
    running = np.float32(0)
    best_value, best_rank = np.float32(-1), 0
    selected = np.float32(0)
    for position in range(num_blocks):
        block = order[position]
        of_block = statistics[block, WORDS] + np.float32(1)
        rank[block] = running / words[num_blocks]
        running += of_block
        selected += of_block * scores[block]
        value = selected / (running + mass[num_blocks])
        if value > best_value:
            best_value, best_rank = value, position
    cut = scores[order[best_rank]]
    first, last = num_blocks, -1
    for block in range(num_blocks):
        if scores[block] >= max(cut, np.float32(0.5)):
            first, last = min(first, block), max(last, block)
    for block in range(num_blocks):
        row = features[block]
        row[0] = scores[block]
        row[1] = rank[block]
        row[2] = scores[block] - cut
        row[3] = 2 * best_value
        row[4] = mass[num_blocks] / words[num_blocks]
        row[5] = near_sums[near_group[block], 1] / near_sums[near_group[block], 0]
        row[6] = far_sums[far_group[block], 1] / far_sums[far_group[block], 0]
        row[7] = block - first
        row[8] = last - block
        row[9] = np.log1p(mass[num_blocks])
        column = 10
        for offset in _CONTEXT_OFFSETS:
            other = block + offset
            row[column] = scores[other] if 0 <= other < num_blocks else np.float32(-1)
            column += 1
        for width in _CONTEXT_WIDTHS:
            start, stop = max(block - width, 0), min(block + width + 1, num_blocks)
            row[column] = (mass[stop] - mass[start]) / (words[stop] - words[start])
            column += 1
        ancestor, level = element[block], 0
        for wanted in _LEVELS:
            while level < wanted and ancestor > 0:
                ancestor = parent[ancestor]
                if block_level[tag[ancestor]]:
                    level += 1
            # Without the block itself, whose own score is known.
            own = statistics[block, WORDS] + np.float32(1)
            others = sums[ancestor, 0] - own
            row[column] = (sums[ancestor, 1] - own * scores[block]) / others if others > 0.5 else np.float32(-1)
            column += 1
        row[column] = (sums[element[block], 1]) / max(sums[element[block], 0], np.float32(1))
    return features


@njit(cache=True, nogil=True)
def _page_features(tag, keywords, state, inner, element, statistics, groups, row):
    words = np.float32(0)
    for block in range(len(element)):
        of_block = statistics[block]
        words += of_block[WORDS]
        row[1] += of_block[LINK_CHARACTERS]
        row[2] += of_block[CHARACTERS]
        row[3] += of_block[TERMINALS]
        row[4] += of_block[COMMAS]
        row[5] += of_block[CURRENCY]
        row[6] += of_block[DIGITS]
        row[7] += of_block[LINKS]
        row[8] += of_block[WORDS] >= 20
        row[9] += of_block[WORDS] >= 50
        row[10] += of_block[SINGLES]
        row[11] += of_block[QUESTION]
        row[12] += of_block[AT_SIGNS]
        if state[inner[block]] & IN_PRE:
            row[13] += of_block[WORDS]
        if tag[element[block]] == _P:
            row[14] += of_block[WORDS]
        elif tag[element[block]] == _LI:
            row[15] += of_block[WORDS]
        elif tag[element[block]] == _TD:
            row[16] += of_block[WORDS]
        if state[inner[block]] & IN_HEADING:
            row[17] += 1
        if state[inner[block]] & IN_HIDDEN:
            row[18] += of_block[WORDS]
    total = max(words, np.float32(1))
    characters = max(row[2], np.float32(1))
    row[19] = words / max(len(element), 1)
    row[0] = np.log1p(words)
    row[1] /= characters
    row[2] = np.log1p(len(element))
    for column in (3, 4, 5, 10, 11, 12, 13, 14, 15, 16, 18):
        row[column] /= total
    row[6] /= characters
    row[7] = np.log1p(row[7])
    row[8] = np.log1p(row[8])
    row[9] = np.log1p(row[9])
    row[17] = np.log1p(row[17])
    row[20] = np.log1p(len(tag))
    base = NUM_PAGE_BASE
    for number in range(len(tag)):
        bits = keywords[number]
        group = 0
        while bits:
            if bits & np.uint64(1):
                row[base + group] += 1
            bits >>= np.uint64(1)
            group += 1
        if groups[tag[number]] >= 0:
            row[base + NUM_KEYWORDS + groups[tag[number]]] += 1
    for column in range(base, base + NUM_KEYWORDS + _NUM_GROUPS):
        row[column] = np.log1p(row[column])


@njit(cache=True, nogil=True)
def _share(part, whole):
    return part / whole if whole > 0 else np.float32(0)


@njit(cache=True, nogil=True)
def _subtree_sums(parent, element, statistics, count):
    """For each element: words, characters, characters in links, blocks, ends of sentences and commas inside it."""
    sums = np.zeros((count, 6), np.float32)
    for block in range(len(element)):
        row = sums[element[block]]
        row[0] += statistics[block, WORDS]
        row[1] += statistics[block, CHARACTERS]
        row[2] += statistics[block, LINK_CHARACTERS]
        row[3] += 1
        row[4] += statistics[block, TERMINALS] + statistics[block, COMMAS]
        row[5] += statistics[block, WORDS] >= 15
    for number in range(count - 1, 0, -1):
        for column in range(6):
            sums[parent[number], column] += sums[number, column]
    return sums


@njit(cache=True, nogil=True)
def _densest(parent, element, statistics, count):
    """The element whose children and grandchildren hold most running text."""
    scores = np.zeros(count, np.float32)
    for block in range(len(element)):
        words = statistics[block, WORDS]
        density = _share(statistics[block, LINK_CHARACTERS], statistics[block, CHARACTERS])
        if words < 8 or density > 0.5:
            continue
        score = (1 + statistics[block, COMMAS] + statistics[block, TERMINALS] + min(words / 20, 5)) * (1 - density)
        ancestor = parent[element[block]]
        scores[ancestor] += score
        scores[parent[ancestor]] += score * 0.6
        scores[parent[parent[ancestor]]] += score * 0.3
    return np.argmax(scores)


@njit(cache=True, nogil=True)
def _best_stretch(statistics):
    """First and last block of the stretch with the largest sum of words outside links, less those in links."""
    best, total, start, first, last = np.float32(-1e9), np.float32(0), 0, 0, 0
    for block in range(len(statistics)):
        density = _share(statistics[block, LINK_CHARACTERS], statistics[block, CHARACTERS])
        if total <= 0:
            total, start = np.float32(0), block
        total += statistics[block, WORDS] * (1 - 2 * density) - 4
        if total > best:
            best, first, last = total, start, block
    return first, last


@njit(cache=True, nogil=True)
def _counts_of_equal(keys):
    """How often each key occurs, and the number of its group."""
    order = np.argsort(keys)
    counts, group = np.zeros(len(keys), np.int32), np.zeros(len(keys), np.int32)
    start, number = 0, 0
    for position in range(1, len(keys) + 1):
        if position == len(keys) or keys[order[position]] != keys[order[start]]:
            for i in range(start, position):
                counts[order[i]] = position - start
                group[order[i]] = number
            start = position
            number += 1
    return counts, group


@njit(cache=True, nogil=True)
def _templates(parent, signature, element, inner):
    """Keys of blocks of the same template: the same tags and classes on the block and on what it lies in."""
    near, far = np.zeros(len(element), np.uint64), np.zeros(len(element), np.uint64)
    for block in range(len(element)):
        number = element[block]
        near[block] = (signature[inner[block]] * _PRIME ^ signature[number]) * _PRIME ^ signature[parent[number]]
        above = parent[parent[number]]
        far[block] = (near[block] * _PRIME ^ signature[above]) * _PRIME ^ signature[parent[above]]
    return near, far


@njit(cache=True, nogil=True)
def _put_text(row, s, soft, flags):
    """Features of a block's own text."""
    characters = max(s[CHARACTERS], np.float32(1))
    words = max(s[WORDS], np.float32(1))
    row[0] = np.log1p(s[CHARACTERS])
    row[1] = np.log1p(s[WORDS])
    row[2] = characters / words
    row[3] = s[LINK_CHARACTERS] / characters
    row[4] = s[LINKS]
    row[5] = s[UPPERS] / max(s[LETTERS], np.float32(1))
    row[6] = s[CAPITALISED] / words
    row[7] = s[DIGITS] / characters
    row[8] = s[PUNCTUATIONS] / characters
    row[9] = s[COMMAS]
    row[10] = s[TERMINALS]
    row[11] = s[ENDS_TERMINAL]
    row[12] = s[ENDS_COLON]
    row[13] = s[STARTS_UPPER]
    row[14] = s[STARTS_DIGIT]
    row[15] = s[SEPARATORS]
    row[16] = s[COPYRIGHTS]
    row[17] = s[DIGIT_GROUPS]
    row[18] = s[QUESTION]
    row[19] = s[AT_SIGNS] + 10 * min(s[CURRENCY], np.float32(3))
    row[20] = s[EMPHASIS_CHARACTERS] / characters
    row[21] = s[LONGEST_WORD]
    row[22] = s[RUNS]
    row[23] = s[SINGLES] / words
    row[24] = soft
    row[25] = (flags & IN_HIDDEN != 0) + 2 * (flags & IN_BUTTON != 0) + 4 * (flags & IN_PRE != 0)


@njit(cache=True, nogil=True)
def _put_distances(row, first, inner, tag, parent, keywords, groups):
    """Levels from a block up to the nearest element of each group, and to the nearest with each keyword."""
    for column in range(first, first + _NUM_GROUPS + NUM_KEYWORDS):
        row[column] = _FAR
    seen = np.uint64(0)
    level, element = np.float32(0), inner
    while element > 0:
        group = groups[tag[element]]
        if group >= 0 and row[first + group] == _FAR:
            row[first + group] = level
        fresh = keywords[element] & ~seen
        seen |= fresh
        column = first + _NUM_GROUPS
        while fresh:
            if fresh & np.uint64(1):
                row[column] = level
            fresh >>= np.uint64(1)
            column += 1
        level = min(level + 1, np.float32(_FAR - 1))
        element = parent[element]


@njit(cache=True, nogil=True)
def _block_features(
    tag, parent, depth, last, keywords, signature, state, element, inner, soft, statistics, groups, block_level
):
    num_blocks, count = len(element), len(tag)
    features = np.zeros((num_blocks, NUM_BLOCK_FEATURES), np.float32)
    if num_blocks == 0:
        return features
    sums = _subtree_sums(parent, element, statistics, count)
    total_words = max(sums[0, 0], np.float32(1))
    densest = _densest(parent, element, statistics, count)
    stretch_first, stretch_last = _best_stretch(statistics)
    near, far = _templates(parent, signature, element, inner)
    texts = np.zeros(num_blocks, np.uint64)
    for block in range(num_blocks):
        texts[block] = (np.uint64(statistics[block, HASH_LOW]) << np.uint64(24)) | np.uint64(
            statistics[block, HASH_HIGH]
        )
    near_counts, near_group = _counts_of_equal(near)
    far_counts, far_group = _counts_of_equal(far)
    text_counts, _ = _counts_of_equal(texts)
    near_sums = np.zeros((num_blocks, 4), np.float32)
    far_sums = np.zeros((num_blocks, 4), np.float32)
    for block in range(num_blocks):
        s = statistics[block]
        for sums_of, group in ((near_sums, near_group), (far_sums, far_group)):
            sums_of[group[block], 0] += s[WORDS]
            sums_of[group[block], 1] += _share(s[LINK_CHARACTERS], s[CHARACTERS])
            sums_of[group[block], 2] += s[ENDS_TERMINAL]
            sums_of[group[block], 3] += s[COMMAS]
    # Siblings with the same tag and classes: cards, comments, rows of a list.
    siblings = np.zeros(count, np.uint64)
    for number in range(count):
        siblings[number] = (signature[number] ^ np.uint64(parent[number])) * _PRIME
    sibling_counts, _ = _counts_of_equal(siblings)
    words_before, h1_block, heading_block, words_at_heading, words_at_h1 = (
        np.float32(0),
        -1,
        -1,
        np.float32(0),
        np.float32(0),
    )
    for block in range(num_blocks):
        if tag[element[block]] == _H1 and statistics[block, WORDS] > 0:
            h1_block = block
            break
    for block in range(h1_block):
        words_at_h1 += statistics[block, WORDS]
    stretch_middle = (stretch_first + stretch_last) / 2
    for block in range(num_blocks):
        row, s, number = features[block], statistics[block], element[block]
        _put_text(row, s, soft[block], state[inner[block]])
        column = NUM_TEXT
        _put_distances(row, column, inner[block], tag, parent, keywords, groups)
        column += _NUM_GROUPS + NUM_KEYWORDS
        # Position.
        row[column] = block / num_blocks
        row[column + 1] = words_before / total_words
        row[column + 2] = depth[number]
        row[column + 3] = block - h1_block if h1_block >= 0 else -999
        row[column + 4] = (words_before - words_at_h1) / total_words if h1_block >= 0 else -1
        row[column + 5] = block - heading_block if heading_block >= 0 else 999
        row[column + 6] = np.log1p(words_before - words_at_heading)
        row[column + 7] = tag[element[heading_block]] if heading_block >= 0 else 0
        row[column + 8] = block - stretch_first
        row[column + 9] = stretch_last - block
        row[column + 10] = stretch_first <= block <= stretch_last
        inside = densest <= number <= last[densest]
        common = densest
        while not common <= number <= last[common]:
            common = parent[common]
        row[column + 11] = depth[densest] - depth[common]
        row[column + 12] = depth[number] - depth[common]
        row[column + 13] = inside
        column += NUM_POSITION
        # What the block lies in.
        ancestor, level, position = number, 0, 0
        for level_wanted in _LEVELS:
            while level < level_wanted and ancestor > 0:
                ancestor = parent[ancestor]
                if block_level[tag[ancestor]]:
                    level += 1
            of = sums[ancestor]
            at = column + NUM_LEVEL * position
            row[at] = np.log1p(of[0])
            row[at + 1] = _share(of[2], of[1])
            row[at + 2] = np.log1p(of[3])
            row[at + 3] = _share(of[0], of[3])
            row[at + 4] = of[0] / total_words
            row[at + 5] = _share(of[4], of[0])
            position += 1
        column += NUM_LEVEL * len(_LEVELS)
        # Neighbours.
        position = 0
        for offset in _OFFSETS:
            other = block + offset
            at = column + NUM_NEIGHBOUR * position
            position += 1
            if other < 0 or other >= num_blocks:
                row[at] = -1
                continue
            o = statistics[other]
            row[at] = np.log1p(o[WORDS])
            row[at + 1] = _share(o[LINK_CHARACTERS], o[CHARACTERS])
            row[at + 2] = o[ENDS_TERMINAL]
            row[at + 3] = groups[tag[element[other]]]
            row[at + 4] = near[other] == near[block]
            # Levels up to what both lie in.
            common, steps = number, 0
            while not common <= element[other] <= last[common]:
                common = parent[common]
                steps += 1
            row[at + 5] = steps
            row[at + 6] = o[TERMINALS] + o[COMMAS]
        column += NUM_NEIGHBOUR * len(_OFFSETS)
        for width in (4, 12):
            words, characters, in_links, headings = np.float32(0), np.float32(0), np.float32(0), 0
            for other in range(max(block - width, 0), min(block + width + 1, num_blocks)):
                words += statistics[other, WORDS]
                characters += statistics[other, CHARACTERS]
                in_links += statistics[other, LINK_CHARACTERS]
                headings += state[inner[other]] & IN_HEADING != 0
            row[column] = np.log1p(words)
            row[column + 1] = _share(in_links, characters)
            row[column + 2] = headings
            column += 3
        # Templates and repetitions.
        row[column] = near_counts[block]
        row[column + 1] = near_sums[near_group[block], 0] / near_counts[block]
        row[column + 2] = near_sums[near_group[block], 1] / near_counts[block]
        row[column + 3] = near_sums[near_group[block], 2] / near_counts[block]
        row[column + 4] = near_sums[near_group[block], 0] / total_words
        row[column + 5] = far_counts[block]
        row[column + 6] = far_sums[far_group[block], 0] / far_counts[block]
        row[column + 7] = far_sums[far_group[block], 1] / far_counts[block]
        row[column + 8] = far_sums[far_group[block], 0] / total_words
        row[column + 9] = text_counts[block]
        # The nearest element with at least two like it beside it.
        ancestor, level = number, 0
        while ancestor > 0 and sibling_counts[ancestor] < 3:
            ancestor = parent[ancestor]
            level += 1
        if ancestor > 0:
            row[column + 10] = sibling_counts[ancestor]
            row[column + 11] = level
            row[column + 12] = sums[ancestor, 0]
            row[column + 13] = _share(sums[ancestor, 2], sums[ancestor, 1])
        else:
            row[column + 11] = _FAR
        column += NUM_GROUP
        # The page.
        row[column] = np.log1p(total_words)
        row[column + 1] = _share(sums[0, 2], sums[0, 1])
        row[column + 2] = num_blocks
        row[column + 3] = sums[0, 5]
        row[column + 4] = sums[densest, 0] / total_words
        row[column + 5] = _share(sums[densest, 2], sums[densest, 1])
        row[column + 6] = (stretch_last - stretch_first + 1) / num_blocks
        row[column + 7] = total_words / num_blocks
        row[column + 8] = sums[0, 4] / total_words
        words_before += s[WORDS]
        if state[inner[block]] & IN_HEADING and tag[number] >= _H1 and tag[number] <= _H6:
            heading_block, words_at_heading = block, words_before
    return features
