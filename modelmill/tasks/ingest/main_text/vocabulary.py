"""Names of HTML's elements and attributes, and words in class names → the numbers that the parser works with."""

import functools
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

# Elements that the parser or the features tell apart; all others count as "other".
TAGS = (
    "other", "html", "head", "body", "title", "meta", "link", "base", "script", "style", "noscript", "template",
    "div", "p", "span", "a", "b", "strong", "i", "em", "u", "small", "sub", "sup", "mark", "code", "pre", "kbd",
    "samp", "tt", "var", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "li", "dl", "dt", "dd", "menu",
    "table", "thead", "tbody", "tfoot", "tr", "td", "th", "caption", "colgroup", "col",
    "nav", "header", "footer", "aside", "main", "article", "section", "address", "figure", "figcaption",
    "blockquote", "q", "cite", "details", "summary", "dialog", "form", "fieldset", "legend", "label", "input",
    "button", "select", "option", "optgroup", "textarea", "img", "picture", "video", "audio", "source", "track",
    "iframe", "object", "embed", "param", "canvas", "svg", "math", "annotation", "semantics", "br", "wbr", "hr",
    "time", "font", "center", "abbr", "del", "ins", "s", "strike", "big", "hgroup", "xmp", "plaintext", "noembed",
    "noframes", "frame", "frameset", "area", "map", "search", "textpath", "listing", "marquee", "dir",
)  # fmt: skip
TAG = {name: number for number, name in enumerate(TAGS)}


def tag_flags(names: Iterable[str]) -> NDArray[np.bool_]:
    """Whether each of TAGS is one of the named: a read-only array, which kernels hold as a constant."""
    flags = np.zeros(len(TAGS), np.bool_)
    flags[[TAG[name] for name in names]] = True
    flags.flags.writeable = False
    return flags


ATTRIBUTES = (
    "class", "id", "role", "href", "alt", "style", "hidden", "aria-hidden", "itemprop", "itemtype", "property", "name",
    "content", "type", "src", "encoding", "rel",
)  # fmt: skip
ATTRIBUTE = {name: number for number, name in enumerate(ATTRIBUTES, 1)}

# Groups of stems looked for in class, id, role and itemprop. Authors of pages in any language name these in English.
KEYWORDS: tuple[tuple[str, ...], ...] = (
    ("nav", "menu", "megamenu"),
    ("foot", "colophon", "contentinfo"),
    ("head", "masthead", "topbar"),
    ("side", "rail", "complementary", "column-right", "col-right"),
    ("comment", "disqus", "respond"),
    ("share", "social", "follow", "facebook", "twitter", "linkedin", "pinterest", "whatsapp"),
    ("relat", "recommend", "similar", "more-", "also", "read-next", "suggest", "upsell", "cross-sell"),
    ("cookie", "consent", "gdpr", "privacy", "onetrust"),
    ("banner", "promo", "cta", "callout"),
    ("advert", "sponsor", "adsense", "ads-", "-ads", "ad-slot", "adslot", "adunit", "ad-unit", "ad-container", "dfp"),
    ("breadcrumb", "crumb"),
    ("pagin", "pager", "page-number", "load-more"),
    ("tag", "topic", "categor", "label", "chip", "badge"),
    ("author", "byline", "bio", "avatar", "profile"),
    ("meta", "info"),
    ("date", "time", "publish", "timestamp"),
    ("caption", "credit", "figure", "image", "img", "photo", "media", "gallery", "thumb"),
    ("content", "rich", "prose", "markdown", "wysiwyg", "rte"),
    ("article", "story"),
    ("post",),
    ("body",),
    ("main",),
    ("entry", "blog", "single"),
    ("text", "paragraph", "copy"),
    ("title", "headline", "heading"),
    ("summary", "excerpt", "intro", "lead", "dek", "abstract", "standfirst", "teaser"),
    ("desc", "detail", "about", "overview"),
    ("product", "sku", "shop", "woocommerce"),
    ("price", "cart", "buy", "offer", "checkout", "stock", "add-to"),
    ("review", "rating", "star", "testimonial", "feedback"),
    ("spec", "attribut", "feature", "option", "variant", "swatch"),
    ("form", "input", "field", "submit", "newsletter", "subscri", "signup", "sign-up"),
    ("search", "filter", "facet", "sort"),
    ("login", "account", "register", "signin", "user", "member"),
    ("modal", "popup", "dialog", "overlay", "lightbox", "drawer", "offcanvas", "tooltip", "toast"),
    ("widget", "module", "block", "component"),
    ("toc", "table-of-contents", "toctree", "outline", "on-this-page"),
    ("list", "items", "collection", "feed", "archive", "index"),
    ("card", "tile", "grid", "item"),
    ("thread", "message", "reply", "replies", "forum", "discussion", "topic", "conversation"),
    ("question", "answer", "faq", "accordion", "qna", "q-a"),
    ("quote", "signature", "spoiler"),
    ("code", "highlight", "syntax", "snippet", "example"),
    ("table", "row", "cell"),
    ("hidden", "hide", "sr-only", "screen-reader", "visually", "invisible", "skip", "collapse"),
    ("legal", "disclaimer", "copyright", "terms", "policy", "trust"),
    ("section", "container", "wrapper", "wrap", "layout", "inner"),
    ("hero", "jumbotron", "slider", "carousel", "swiper", "slick"),
    ("tab", "panel", "accord"),
    ("event", "job", "location", "address", "map", "contact", "phone"),
    ("doc", "api", "reference", "param", "method", "class", "function"),
    ("alert", "notice", "warning", "note", "message-box", "admonition"),
    ("button", "btn", "link", "icon", "action", "toolbar", "control"),
    ("lang", "locale", "country", "region", "currency", "translate"),
    ("video", "player", "audio", "podcast", "embed"),
    ("stat", "count", "view", "vote", "score", "like", "point"),
    ("logo", "brand", "site-"),
    ("team", "service", "client", "partner", "pricing", "plan", "benefit"),
)
NUM_KEYWORDS = len(KEYWORDS)
assert NUM_KEYWORDS <= 64

FNV_OFFSET, FNV_PRIME = 0xCBF29CE484222325, 0x100000001B3
TABLE_BITS = 12


def name_hash(name: str) -> int:
    """FNV-1a of 64 bits, as the parser computes it for lower-cased names."""
    value = FNV_OFFSET
    for byte in name.encode():
        value = ((value ^ byte) * FNV_PRIME) & 0xFFFFFFFFFFFFFFFF
    return value


@functools.cache
def name_table(names: tuple[str, ...], first: int) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
    """Open-addressed hash table of names: hashes and numbers, counted from `first`; 0 where a slot is free."""
    hashes, numbers = np.zeros(1 << TABLE_BITS, np.uint64), np.zeros(1 << TABLE_BITS, np.uint8)
    for number, name in enumerate(names, first):
        value = name_hash(name)
        slot = value >> (64 - TABLE_BITS)
        while hashes[slot]:
            slot = (slot + 1) % len(hashes)
        hashes[slot], numbers[slot] = value, number
    return hashes, numbers


@functools.cache
def keyword_automaton(groups: tuple[tuple[str, ...], ...] = KEYWORDS) -> tuple[NDArray[np.uint16], NDArray[np.uint64]]:
    """Aho-Corasick automaton of up to 64 groups of stems: next state by (state, letter), groups found by state.

    Letters are a-z → 1-26, the hyphen and the underscore → 27, all others → 0.
    """
    children: list[dict[int, int]] = [{}]
    found = [0]
    for group, stems in enumerate(groups):
        for stem in stems:
            state = 0
            for character in stem:
                letter = 27 if character in "-_" else ord(character) - 96
                if letter not in children[state]:
                    children[state][letter] = len(children)
                    children.append({})
                    found.append(0)
                state = children[state][letter]
            found[state] |= 1 << group
    following = np.zeros((len(children), 32), np.uint16)
    fallback = [0] * len(children)
    queue = list(children[0].values())
    for letter, child in children[0].items():
        following[0, letter] = child
    for state in queue:
        found[state] |= found[fallback[state]]
        following[state] = following[fallback[state]]
        for letter, child in children[state].items():
            fallback[child] = int(following[fallback[state], letter])
            following[state, letter] = child
            queue.append(child)
    return following, np.array(found, np.uint64)
