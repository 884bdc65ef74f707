"""A start or end tag and the stack of open elements → how far the stack shrinks: the HTML standard's implied ends.

Position 0 of the stack is the document, `top` its innermost open element. `tag` has the number of each element.
"""

from numba import njit

from modelmill.tasks.ingest.main_text.vocabulary import TAG, tag_flags

_CLOSE_P = (
    "address", "article", "aside", "blockquote", "center", "details", "dialog", "dir", "div", "dl", "fieldset",
    "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hgroup", "hr", "li",
    "dt", "dd", "listing", "main", "menu", "nav", "ol", "p", "pre", "search", "section", "summary", "table", "ul",
)  # fmt: skip
_INLINE = (
    "span", "a", "b", "strong", "i", "em", "u", "small", "sub", "sup", "mark", "code", "kbd", "samp", "tt", "var", "q",
    "cite", "font", "abbr", "del", "ins", "s", "strike", "big", "time", "label", "other",
)  # fmt: skip
_CLOSES_P, _IS_INLINE = tag_flags(_CLOSE_P), tag_flags(_INLINE)
_IS_SCOPE = tag_flags(("table", "td", "th", "caption", "template", "object", "html"))
_IS_LIST = tag_flags(("ul", "ol", "dl", "menu"))
_IS_PART_OF_TABLE = tag_flags(("thead", "tbody", "tfoot", "tr", "td", "th"))
_BELONGS_TO_TABLE = tag_flags(("table", "thead", "tbody", "tfoot", "tr"))
_A, _P, _LI, _DT, _DD, _TR, _TD, _TH = (TAG[name] for name in ("a", "p", "li", "dt", "dd", "tr", "td", "th"))
_OPTION, _OPTGROUP, _SELECT, _TABLE = (TAG[name] for name in ("option", "optgroup", "select", "table"))
# An option is not looked for further up, since most stand outside a select only in broken pages.
_OPTION_DEPTH = 4


@njit(cache=True, nogil=True)
def implied_end(number, stack, top, tag):
    """Depth to which the stack of open elements shrinks before an element of a kind begins."""
    depth = top
    if number in (_LI, _DT, _DD):
        depth = _before_item(number, stack, top, tag)
    elif _IS_PART_OF_TABLE[number]:
        return _before_part_of_table(number, stack, top, tag)
    elif number in (_OPTION, _OPTGROUP):
        return _before_option(number, stack, top, tag)
    elif number == _A:
        return _before_inline(_A, stack, top, tag)
    if depth == top and _CLOSES_P[number]:
        return _before_inline(_P, stack, top, tag)
    return depth


@njit(cache=True, nogil=True)
def _before_item(number, stack, top, tag):
    """An item ends the one before it in the same list: li ends li; dt and dd end each other."""
    depth = top
    while depth > 0:
        open_tag = tag[stack[depth]]
        if _IS_LIST[open_tag] or _IS_SCOPE[open_tag]:
            break
        if (number == _LI and open_tag == _LI) or (number != _LI and open_tag in (_DT, _DD)):
            return depth - 1
        depth -= 1
    return top


@njit(cache=True, nogil=True)
def _before_part_of_table(number, stack, top, tag):
    """A cell ends the cell before it, a row also the row, a part of the table all of these and the part before."""
    is_cell = number in (_TD, _TH)
    depth, result = top, top
    while depth > 0:
        open_tag = tag[stack[depth]]
        if open_tag == _TABLE:
            break
        if open_tag in (_TD, _TH):
            if is_cell:
                return depth - 1
            result = depth - 1
        elif open_tag == _TR:
            if is_cell:
                break
            result = depth - 1
        elif _IS_PART_OF_TABLE[open_tag] and not is_cell:
            if number == _TR:
                break
            result = depth - 1
        depth -= 1
    return result


@njit(cache=True, nogil=True)
def _before_option(number, stack, top, tag):
    """An option ends the one before it, a group of options both."""
    depth = top
    while depth > 0 and tag[stack[depth]] != _SELECT and top - depth < _OPTION_DEPTH:
        open_tag = tag[stack[depth]]
        if open_tag == number or (number == _OPTGROUP and open_tag == _OPTION):
            return depth - 1
        depth -= 1
    return top


@njit(cache=True, nogil=True)
def _before_inline(closed, stack, top, tag):
    """Close an element of a kind where only inline ones are open inside it."""
    depth = top
    while depth > 0 and not _IS_SCOPE[tag[stack[depth]]]:
        open_tag = tag[stack[depth]]
        if open_tag == closed:
            return depth - 1
        if not _IS_INLINE[open_tag]:
            break
        depth -= 1
    return top


@njit(cache=True, nogil=True)
def outside(number, stack, top, tag):
    """Top of the stack once the outermost element of a kind is closed."""
    for depth in range(1, top + 1):
        if tag[stack[depth]] == number:
            return depth - 1
    return top


@njit(cache=True, nogil=True)
def closed(number, name, stack, names, top, tag):
    """Close the innermost open element of that name → new top of the stack. End tags that match nothing do nothing.

    An inline element that a block is open in leaves the stack alone: the block goes on.
    """
    in_table = _BELONGS_TO_TABLE[number]
    depth, crossed = top, False
    while depth > 0:
        if names[depth] == name:
            if crossed and _IS_INLINE[number]:
                for position in range(depth, top):
                    stack[position], names[position] = stack[position + 1], names[position + 1]
                return top - 1
            return depth - 1
        open_tag = tag[stack[depth]]
        if open_tag == _TABLE and in_table:
            return top
        if _IS_SCOPE[open_tag] and not in_table and number not in (_TD, _TH):
            return top
        crossed = crossed or not _IS_INLINE[open_tag]
        depth -= 1
    return top
