"""Elements and blocks of a page → features of the whole page, which tell its type. None knows a language."""

import re

import numpy as np
from numba import njit
from numpy.typing import NDArray

from modelmill.tasks.ingest.main_text.attributes import JSON_LD
from modelmill.tasks.ingest.main_text.blocks import Blocks
from modelmill.tasks.ingest.main_text.parse import Markup
from modelmill.tasks.ingest.main_text.reading import keyword_groups
from modelmill.tasks.ingest.main_text.states import IN_HEADING, IN_HIDDEN, IN_PRE
from modelmill.tasks.ingest.main_text.statistics import (
    AT_SIGNS,
    CHARACTERS,
    COMMAS,
    CURRENCY,
    DIGITS,
    LINK_CHARACTERS,
    LINKS,
    QUESTION,
    SINGLES,
    TERMINALS,
    WORDS,
)
from modelmill.tasks.ingest.main_text.tag_groups import GROUP_OF_TAG, NUM_TAG_GROUPS
from modelmill.tasks.ingest.main_text.vocabulary import NUM_KEYWORDS, TAG, keyword_automaton

# Names that pages in any language give: types of schema.org and Open Graph, and what made the page.
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
_NUM_BASE = 22  # of the words and blocks
_TYPES_AT = _NUM_BASE + NUM_KEYWORDS + NUM_TAG_GROUPS
_OPEN_GRAPH_AT = _TYPES_AT + len(_TYPES)
_GENERATORS_AT = _OPEN_GRAPH_AT + len(_OPEN_GRAPH_TYPES)
NUM_PAGE_FEATURES = _GENERATORS_AT + len(_GENERATORS)
_TYPE_COLUMN = {name.encode(): _TYPES_AT + number for number, name in enumerate(_TYPES)}
# One pass finds them all, save for the one that is not of letters alone.
_NAMES_OF_GENERATORS = tuple((name.decode(),) if name.isalpha() else () for name in _GENERATORS)
_WIX = _GENERATORS_AT + _GENERATORS.index(b"wix.com")
# Generators are named and Open Graph types given in the head, which is mostly shorter.
_HEAD_BYTES = 60_000
_P, _LI, _TD = (TAG[name] for name in ("p", "li", "td"))
# Per word or per character of the page, and on a logarithmic scale.
_PER_WORD = (3, 4, 5, 10, 11, 12, 13, 14, 15, 16, 18)
_PER_CHARACTER = (1, 6)
_LOGARITHMS = (7, 8, 9, 17)


def page_features(page: Markup, blocks: Blocks) -> NDArray[np.float32]:
    """Features of the whole page: (NUM_PAGE_FEATURES,)."""
    row = np.zeros(NUM_PAGE_FEATURES, np.float32)
    _count_words(page.tag, blocks.state, blocks.inner, blocks.element, blocks.statistics, row)
    _count_elements(page.tag, page.keywords, GROUP_OF_TAG, row)
    row[20] = np.log1p(len(page.tag))
    for run in np.flatnonzero(page.flags[page.run_element] & JSON_LD):
        for name in _TYPE_PATTERN.findall(page.content[page.run_start[run] : page.run_end[run]].tobytes()):
            if name in _TYPE_COLUMN:
                row[_TYPE_COLUMN[name]] += 1
    row[_NUM_BASE:_OPEN_GRAPH_AT] = np.log1p(row[_NUM_BASE:_OPEN_GRAPH_AT])
    head = page.content[:_HEAD_BYTES].tobytes().lower()
    name = _open_graph_type(head)
    if name in _OPEN_GRAPH_TYPES:
        row[_OPEN_GRAPH_AT + _OPEN_GRAPH_TYPES.index(name)] = 1
    generators = int(keyword_groups(page.content, 0, len(head), *keyword_automaton(_NAMES_OF_GENERATORS)))
    row[_GENERATORS_AT:] = [generators >> number & 1 for number in range(len(_GENERATORS))]
    row[_WIX] = b"wix.com" in head
    return row


def _open_graph_type(head: bytes) -> str:
    """What the first element that names og:type says, its attributes in either order; "" if there is none."""
    if b"og:type" not in head:
        return ""
    found = _OPEN_GRAPH.search(head)
    return (found.group(1) or found.group(2)).decode() if found else ""


@njit(cache=True, nogil=True)
def _count_words(tag, state, inner, element, statistics, row):
    """Fill the first columns: words, links and signs of all blocks, and in which elements they stand."""
    words = np.float32(0)
    for block in range(len(element)):
        s = statistics[block]
        words += s[WORDS]
        row[1] += s[LINK_CHARACTERS]
        row[2] += s[CHARACTERS]
        row[3] += s[TERMINALS]
        row[4] += s[COMMAS]
        row[5] += s[CURRENCY]
        row[6] += s[DIGITS]
        row[7] += s[LINKS]
        row[8] += s[WORDS] >= 20
        row[9] += s[WORDS] >= 50
        row[10] += s[SINGLES]
        row[11] += s[QUESTION]
        row[12] += s[AT_SIGNS]
        _count_places(row, s[WORDS], state[inner[block]], tag[element[block]])
    characters, total = max(row[2], np.float32(1)), max(words, np.float32(1))
    row[0] = np.log1p(words)
    row[2] = np.log1p(len(element))
    row[19] = words / max(len(element), 1)
    for column in _PER_CHARACTER:
        row[column] /= characters
    for column in _PER_WORD:
        row[column] /= total
    for column in _LOGARITHMS:
        row[column] = np.log1p(row[column])


@njit(cache=True, nogil=True)
def _count_places(row, words, flags, tag):
    """Add a block's words to those of the places that it stands in."""
    if flags & IN_PRE:
        row[13] += words
    if tag == _P:
        row[14] += words
    elif tag == _LI:
        row[15] += words
    elif tag == _TD:
        row[16] += words
    if flags & IN_HEADING:
        row[17] += 1
    if flags & IN_HIDDEN:
        row[18] += words


@njit(cache=True, nogil=True)
def _count_elements(tag, keywords, groups, row):
    """Count the elements that have each keyword, and those of each group."""
    for number in range(len(tag)):
        bits, column = keywords[number], _NUM_BASE
        while bits:
            if bits & np.uint64(1):
                row[column] += 1
            bits >>= np.uint64(1)
            column += 1
        group = groups[tag[number]]
        if group >= 0:
            row[_NUM_BASE + NUM_KEYWORDS + group] += 1
