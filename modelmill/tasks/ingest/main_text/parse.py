"""HTML as bytes → its elements and runs of text as flat arrays, by one pass of a compiled tokeniser.

Follows the HTML standard's tokeniser, and of its tree construction what shapes text: void elements, raw text, implied
ends (p, li, dt, td, tr, ...), end tags that close what is open inside them. It does not move misplaced content out of
tables nor rebuild formatting elements: neither changes the order of the text.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from modelmill.tasks.ingest.main_text.vocabulary import ATTRIBUTE, ATTRIBUTES, TAG, TAGS, keyword_automaton, name_table

# Flags of an element.
HIDDEN, MATH_NAME, TEX, HAS_LINK, FORMULA_IMAGE, JSON_LD = 1, 2, 4, 8, 16, 32

_VOID = (
    "area", "base", "br", "col", "embed", "frame", "hr", "img", "input", "link", "meta", "param", "source", "track",
    "wbr",
)  # fmt: skip
_RAW = ("script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes")
_CLOSE_P = (
    "address", "article", "aside", "blockquote", "center", "details", "dialog", "dir", "div", "dl", "fieldset",
    "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hgroup", "hr", "li",
    "dt", "dd", "listing", "main", "menu", "nav", "ol", "p", "pre", "search", "section", "summary", "table", "ul",
)  # fmt: skip
_INLINE = (
    "span", "a", "b", "strong", "i", "em", "u", "small", "sub", "sup", "mark", "code", "kbd", "samp", "tt", "var", "q",
    "cite", "font", "abbr", "del", "ins", "s", "strike", "big", "time", "label", "other",
)  # fmt: skip
_HEAD_CONTENT = (
    "head", "title", "meta", "link", "base", "script", "style", "noscript", "template", "object", "img", "param",
    "iframe",
)  # fmt: skip
_SCOPE = ("table", "td", "th", "caption", "template", "object", "html")


def _flags(names: tuple[str, ...]) -> NDArray[np.bool_]:
    flags = np.zeros(len(TAGS), np.bool_)
    flags[[TAG[name] for name in names]] = True
    flags.flags.writeable = False
    return flags


_IS_VOID, _IS_RAW, _CLOSES_P, _IS_INLINE, _IS_SCOPE, _IS_HEAD_CONTENT = map(
    _flags, (_VOID, _RAW, _CLOSE_P, _INLINE, _SCOPE, _HEAD_CONTENT)
)

_A, _P, _LI, _DT, _DD, _TR, _TD, _TH = (TAG[name] for name in ("a", "p", "li", "dt", "dd", "tr", "td", "th"))
_THEAD, _TBODY, _TFOOT, _TABLE = (TAG[name] for name in ("thead", "tbody", "tfoot", "table"))
_OPTION, _OPTGROUP, _SELECT = (TAG[name] for name in ("option", "optgroup", "select"))
_UL, _OL, _DL, _MENU = (TAG[name] for name in ("ul", "ol", "dl", "menu"))
_BODY, _HEAD, _HTML, _IMG, _SCRIPT, _MATH = (TAG[name] for name in ("body", "head", "html", "img", "script", "math"))
_META, _ANNOTATION, _SVG, _BR = (TAG[name] for name in ("meta", "annotation", "svg", "br"))
_A_CLASS, _A_ID, _A_ROLE, _A_HREF, _A_ALT, _A_STYLE = (
    ATTRIBUTE[name] for name in ("class", "id", "role", "href", "alt", "style")
)
_A_HIDDEN, _A_ARIA_HIDDEN, _A_ITEMPROP, _A_PROPERTY, _A_CONTENT, _A_TYPE, _A_ENCODING = (
    ATTRIBUTE[name] for name in ("hidden", "aria-hidden", "itemprop", "property", "content", "type", "encoding")
)
_A_SRC, _A_NAME = ATTRIBUTE["src"], ATTRIBUTE["name"]

_OFFSET, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
_SHIFT = np.uint64(52)
_MAX_DEPTH = 512  # browsers stop nesting there too; what lies deeper stays a child of the deepest


@dataclass(frozen=True)
class Markup:
    """One page. Elements are numbered in the order of their start tags, so parents come before their children.

    content: the page's bytes. tag, parent, depth: of each element; element 0 stands for the document.
    last: number of the last element inside each element. keywords: bit g is set where group g of the vocabulary
    stands in class, id, role or itemprop. signature: hash of tag and classes. flags: HIDDEN, TEX, ... alt: start and
    end of the alt or content attribute; names: start and end of class, then of id. run_start, run_end, run_element: the runs of text, in the order of the page;
    run_before: number of elements begun before each run.
    """

    content: NDArray[np.uint8]
    tag: NDArray[np.uint8]
    parent: NDArray[np.int32]
    depth: NDArray[np.int32]
    last: NDArray[np.int32]
    keywords: NDArray[np.uint64]
    signature: NDArray[np.uint64]
    flags: NDArray[np.uint8]
    alt: NDArray[np.int32]
    names: NDArray[np.int32]
    run_start: NDArray[np.int32]
    run_end: NDArray[np.int32]
    run_element: NDArray[np.int32]
    run_before: NDArray[np.int32]


def parsed(html: bytes) -> Markup:
    """Parse one page of at most 2 GB."""
    content = np.frombuffer(html, np.uint8)
    count = int(np.count_nonzero(content == 60)) + 2  # every element and every run follows a "<"
    tags = name_table(TAGS[1:], 1)
    attributes = name_table(ATTRIBUTES, 1)
    automaton, found = keyword_automaton()
    elements = _tokenise(content, count, *tags, *attributes, automaton, found)
    return Markup(content, *elements)


@njit(cache=True, nogil=True)
def _is_space(byte):
    return byte == 32 or byte == 10 or byte == 9 or byte == 13 or byte == 12


@njit(cache=True, nogil=True)
def _is_letter(byte):
    return 97 <= (byte | 32) <= 122


@njit(cache=True, nogil=True)
def _lookup(value, hashes, numbers):
    slot = value >> _SHIFT
    while numbers[slot]:
        if hashes[slot] == value:
            return np.int64(numbers[slot])
        slot = (slot + np.uint64(1)) % np.uint64(len(hashes))
    return np.int64(0)


@njit(cache=True, nogil=True)
def _name(content, position, end):
    """Hash of the lower-cased name at a position, and where it ends."""
    value = _OFFSET
    while position < end:
        byte = content[position]
        if _is_space(byte) or byte == 62 or byte == 47 or byte == 61:
            break
        if 65 <= byte <= 90:
            byte |= 32
        value = (value ^ np.uint64(byte)) * _PRIME
        position += 1
    return value, position


@njit(cache=True, nogil=True)
def _value(content, position, end):
    """Start and end of the attribute value at a position (after the equals sign), and where the rest begins."""
    while position < end and _is_space(content[position]):
        position += 1
    if position >= end:
        return end, end, end
    quote = content[position]
    if quote == 34 or quote == 39:
        start = position + 1
        position = start
        while position < end and content[position] != quote:
            position += 1
        return start, position, min(position + 1, end)
    start = position
    while position < end and not _is_space(content[position]) and content[position] != 62:
        position += 1
    return start, position, position


@njit(cache=True, nogil=True)
def _scanned(content, start, end, automaton, found):
    """Groups of keywords in a stretch."""
    state, groups = np.int64(0), np.uint64(0)
    for i in range(start, end):
        byte = content[i]
        letter = 0
        if _is_letter(byte):
            letter = (byte | 32) - 96
        elif byte == 45 or byte == 95:
            letter = 27
        state = np.int64(automaton[state, letter])
        groups |= found[state]
    return groups


@njit(cache=True, nogil=True)
def _hash_classes(content, start, end, value):
    """Hash of the names in a class attribute without their digits, which count items rather than name a kind."""
    for i in range(start, end):
        byte = content[i]
        if not 48 <= byte <= 57:
            value = (value ^ np.uint64(byte)) * _PRIME
    return value


@njit(cache=True, nogil=True)
def _contains(content, start, end, word):
    """Whether a lower-case ASCII word (an array) stands in the stretch, spaces left out."""
    for i in range(start, end - len(word) + 1):
        matched, position = 0, i
        while matched < len(word) and position < end:
            byte = content[position]
            if 65 <= byte <= 90:
                byte |= 32
            if byte != word[matched]:
                if not (matched and _is_space(byte)):
                    break
            else:
                matched += 1
            position += 1
        if matched == len(word):
            return True
    return False


def _bytes(word: str) -> NDArray[np.uint8]:
    array = np.frombuffer(word.encode(), np.uint8)
    array.flags.writeable = False
    return array


_NONE, _INVISIBLE, _TEX_WORD, _LATEX, _MATH_WORD, _LD = map(
    _bytes, ("display:none", "visibility:hidden", "tex", "latex", "math", "ld+json")
)


@njit(cache=True, nogil=True)
def _closing(content, position, end, name_start, name_end):
    """Where the end tag of a raw text element begins, or the end of the page."""
    length = name_end - name_start
    while position < end:
        if content[position] == 60 and position + 1 < end and content[position + 1] == 47:
            matched = 0
            while (
                matched < length
                and position + 2 + matched < end
                and (content[position + 2 + matched] | 32) == (content[name_start + matched] | 32)
            ):
                matched += 1
            after = position + 2 + length
            if matched == length and (
                after >= end or _is_space(content[after]) or content[after] == 62 or content[after] == 47
            ):
                return position
        position += 1
    return end


@njit(cache=True, nogil=True)
def _implied_end(number, stack, top, tag):
    """Depth to which the stack of open elements shrinks before an element begins."""
    closes_p = _CLOSES_P[number]
    if number == _LI or number == _DT or number == _DD:
        depth = top
        while depth > 0:
            open_tag = tag[stack[depth]]
            if open_tag == _UL or open_tag == _OL or open_tag == _DL or open_tag == _MENU or _IS_SCOPE[open_tag]:
                break
            if (number == _LI and open_tag == _LI) or (number != _LI and (open_tag == _DT or open_tag == _DD)):
                return depth - 1
            depth -= 1
    elif number == _TD or number == _TH or number == _TR or number == _THEAD or number == _TBODY or number == _TFOOT:
        depth, result = top, top
        while depth > 0:
            open_tag = tag[stack[depth]]
            if open_tag == _TABLE:
                break
            is_cell = open_tag == _TD or open_tag == _TH
            is_row = is_cell or open_tag == _TR
            is_part = is_row or open_tag == _THEAD or open_tag == _TBODY or open_tag == _TFOOT
            if number == _TD or number == _TH:
                if is_cell:
                    return depth - 1
                if open_tag == _TR:
                    break
            elif number == _TR:
                if is_row:
                    result = depth - 1
                elif is_part:
                    break
            elif is_part:
                result = depth - 1
            depth -= 1
        return result
    elif number == _OPTION or number == _OPTGROUP:
        depth = top
        while depth > 0 and tag[stack[depth]] != _SELECT and top - depth < 4:
            if tag[stack[depth]] == number or (number == _OPTGROUP and tag[stack[depth]] == _OPTION):
                return depth - 1
            depth -= 1
    elif number == _A:
        depth = top
        while depth > 0 and not _IS_SCOPE[tag[stack[depth]]]:
            if tag[stack[depth]] == _A:
                return depth - 1
            if not _IS_INLINE[tag[stack[depth]]]:
                break
            depth -= 1
    if closes_p:
        depth = top
        while depth > 0 and not _IS_SCOPE[tag[stack[depth]]]:
            if tag[stack[depth]] == _P:
                return depth - 1
            if not _IS_INLINE[tag[stack[depth]]]:
                break
            depth -= 1
    return top


@njit(cache=True, nogil=True)
def _above(number, stack, top, tag):
    """Top of the stack once the outermost element of a kind is closed."""
    for depth in range(1, top + 1):
        if tag[stack[depth]] == number:
            return depth - 1
    return top


@njit(cache=True, nogil=True)
def _close(number, name, stack, names, top, tag):
    """Close the innermost open element of that name → new top of the stack. End tags that match nothing do nothing."""
    inline = _IS_INLINE[number]
    in_table = number == _TABLE or number == _TR or number == _TBODY or number == _THEAD or number == _TFOOT
    depth = top
    crossed = False
    while depth > 0:
        element = stack[depth]
        if names[depth] == name:
            if inline and crossed:
                for position in range(depth, top):
                    stack[position] = stack[position + 1]
                    names[position] = names[position + 1]
                return top - 1
            return depth - 1
        open_tag = tag[element]
        if _IS_SCOPE[open_tag] and not (in_table or number == _TD or number == _TH):
            return top
        if open_tag == _TABLE and in_table:
            return top
        crossed = crossed or not _IS_INLINE[open_tag]
        depth -= 1
    return top


@njit(cache=True, nogil=True)
def _tokenise(content, count, tag_hashes, tag_numbers, attribute_hashes, attribute_numbers, automaton, found):
    end = len(content)
    tag = np.zeros(count, np.uint8)
    parent = np.zeros(count, np.int32)
    depth_of = np.zeros(count, np.int32)
    last = np.zeros(count, np.int32)
    keywords = np.zeros(count, np.uint64)
    signature = np.zeros(count, np.uint64)
    flags = np.zeros(count, np.uint8)
    alt = np.zeros((count, 2), np.int32)
    attribute_names = np.zeros((count, 4), np.int32)
    run_start = np.zeros(count, np.int32)
    run_end = np.zeros(count, np.int32)
    run_element = np.zeros(count, np.int32)
    run_before = np.zeros(count, np.int32)
    stack = np.zeros(_MAX_DEPTH + 2, np.int32)
    names = np.zeros(_MAX_DEPTH + 2, np.uint64)
    top, elements, runs, position, text_start = 0, 1, 0, 0, 0
    in_head = False
    while position <= end:
        # Text up to the next tag.
        while position < end and content[position] != 60:
            position += 1
        following = content[position + 1] if position + 1 < end else 0
        is_tag = position >= end or _is_letter(following) or following == 47 or following == 33 or following == 63
        if not is_tag:
            position += 1
            continue
        if position > text_start:
            run_start[runs], run_end[runs], run_element[runs] = text_start, position, stack[top]
            run_before[runs] = elements
            runs += 1
        if position >= end:
            break
        if following == 33 or following == 63:
            is_comment = position + 3 < end and content[position + 2] == 45 and content[position + 3] == 45
            position += 2
            if following == 33 and is_comment:
                if position + 2 < end and content[position + 2] == 62:  # <!-->
                    position += 3
                else:
                    position += 2
                    while position < end and not (
                        content[position] == 62 and content[position - 1] == 45 and content[position - 2] == 45
                    ):
                        position += 1
                    position += 1
            else:
                while position < end and content[position] != 62:
                    position += 1
                position += 1
            text_start = position
            continue
        if following == 47:
            name, position = _name(content, position + 2, end)
            while position < end and content[position] != 62:
                position += 1
            position += 1
            text_start = position
            top_before = top
            number = _lookup(name, tag_hashes, tag_numbers)
            if number != _BODY and number != _HTML:
                top = _close(number, name, stack, names, top, tag)
            # What closed ends with the last element begun.
            for depth in range(top + 1, top_before + 1):
                last[stack[depth]] = elements - 1
            continue
        # A start tag.
        name_start = position + 1
        name, position = _name(content, name_start, end)
        name_end = position
        number = _lookup(name, tag_hashes, tag_numbers)
        new_top = _implied_end(number, stack, top, tag)
        if in_head and not _IS_HEAD_CONTENT[number]:
            # Anything else begins the body, also where its own tag and the end of the head are left out.
            in_head = False
            new_top = _above(_HEAD, stack, new_top, tag)
        in_head = in_head or number == _HEAD
        for depth in range(new_top + 1, top + 1):
            last[stack[depth]] = elements - 1
        top = new_top
        element = elements
        elements += 1
        tag[element] = number
        parent[element] = stack[top]
        depth_of[element] = depth_of[stack[top]] + 1
        last[element] = element
        value_hash = name
        self_closing = False
        while position < end and content[position] != 62:
            byte = content[position]
            if _is_space(byte):
                position += 1
                continue
            if byte == 47:
                self_closing = position + 1 < end and content[position + 1] == 62
                position += 1
                continue
            attribute, after = _name(content, position, end)
            if after == position:  # an equals sign where a name should be
                position += 1
                continue
            position = after
            while position < end and _is_space(content[position]):
                position += 1
            start, stop = position, position
            if position < end and content[position] == 61:
                start, stop, position = _value(content, position + 1, end)
            kind = _lookup(attribute, attribute_hashes, attribute_numbers)
            if kind == 0:
                continue
            if kind == _A_CLASS or kind == _A_ID or kind == _A_ROLE or kind == _A_ITEMPROP:
                keywords[element] |= _scanned(content, start, stop, automaton, found)
                if kind == _A_ID:
                    attribute_names[element, 2], attribute_names[element, 3] = start, stop
                if kind == _A_CLASS:
                    attribute_names[element, 0], attribute_names[element, 1] = start, stop
                    value_hash = _hash_classes(content, start, stop, value_hash)
                    if _contains(content, start, stop, _MATH_WORD) or _contains(content, start, stop, _TEX_WORD):
                        flags[element] |= MATH_NAME
            elif kind == _A_HIDDEN:
                flags[element] |= HIDDEN
            elif kind == _A_ARIA_HIDDEN:
                if stop > start and content[start] | 32 == 116:
                    flags[element] |= HIDDEN
            elif kind == _A_STYLE:
                if _contains(content, start, stop, _NONE) or _contains(content, start, stop, _INVISIBLE):
                    flags[element] |= HIDDEN
            elif kind == _A_HREF:
                flags[element] |= HAS_LINK
            elif kind == _A_ALT or kind == _A_CONTENT:
                alt[element, 0], alt[element, 1] = start, stop
            elif kind == _A_TYPE or kind == _A_ENCODING:
                if _contains(content, start, stop, _TEX_WORD):
                    flags[element] |= TEX
                if _contains(content, start, stop, _LD):
                    flags[element] |= JSON_LD
            elif kind == _A_SRC:
                if number == _IMG and (
                    _contains(content, start, stop, _LATEX) or _contains(content, start, stop, _MATH_WORD)
                ):
                    flags[element] |= FORMULA_IMAGE
        signature[element] = value_hash
        position += 1
        text_start = min(position, end)
        if _IS_RAW[number]:
            closing = _closing(content, text_start, end, name_start, name_end)
            if closing > text_start:
                run_start[runs], run_end[runs], run_element[runs] = text_start, closing, element
                run_before[runs] = elements
                runs += 1
            position = closing
            while position < end and content[position] != 62:
                position += 1
            position += 1
            text_start = min(position, end)
        elif not (_IS_VOID[number] or (self_closing and number == 0)) and top < _MAX_DEPTH:
            top += 1
            stack[top] = element
            names[top] = name
    for depth in range(1, top + 1):
        last[stack[depth]] = elements - 1
    last[0] = elements - 1
    return (
        tag[:elements].copy(), parent[:elements].copy(), depth_of[:elements].copy(), last[:elements].copy(),
        keywords[:elements].copy(), signature[:elements].copy(), flags[:elements].copy(), alt[:elements].copy(),
        attribute_names[:elements].copy(),
        run_start[:runs].copy(), run_end[:runs].copy(), run_element[:runs].copy(),
        run_before[:runs].copy(),
    )  # fmt: skip
