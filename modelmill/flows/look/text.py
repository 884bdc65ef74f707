"""Two texts → their lines with what was taken out, put in and kept."""

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

MAX_LINES = 1_000
MAX_CHARACTERS = 60_000
"""Of each text; what lies beyond is not compared. Comparing takes time with the square of what differs."""
_MAX_WORDS = 1_500  # of a line in which single words are marked
_CONTEXT = 2  # equal lines shown before and after a difference
_MIN_SIMILARITY = 0.5  # shared words from which a removed and an added line are one edited line
_PLACEHOLDER = re.compile(r"<[a-z_]+>")  # what clean writes for personal data
# A placeholder, a word, one character of a script without spaces, a stretch of spaces, or any other character.
_WORDS = re.compile(r"<[a-z_]+>|[぀-ヿ㐀-鿿가-힯]|[^\W぀-ヿ㐀-鿿가-힯]+|\s+|.", re.DOTALL)

Change = Literal["same", "removed", "added"]


@dataclass(frozen=True)
class Line:
    """One line of a comparison. change: "edited" lines have pieces of several kinds; "fold" stands for `folded` equal
    lines, blank ones not counted, that are left out."""

    change: Literal["same", "removed", "added", "edited", "fold"]
    pieces: tuple[tuple[Change, str], ...] = ()
    folded: int = 0


@dataclass(frozen=True)
class Comparison:
    """Lines of two texts, and how many characters of either lie beyond what was compared."""

    lines: tuple[Line, ...]
    beyond: int = 0

    @property
    def differs(self) -> bool:
        return any(line.change not in ("same", "fold") for line in self.lines)


def shortened(text: str, limit: int) -> tuple[str, int]:
    """The beginning of a text, and how many characters are left out."""
    return (text, 0) if len(text) <= limit else (text[:limit], len(text) - limit)


def compared(before: str, after: str) -> Comparison:
    """Compare two texts by line. Blank lines, and which and how many spaces stand somewhere, are no difference."""
    old, old_beyond = _lines(before)
    new, new_beyond = _lines(after)
    # What lies beyond one text's limit would look removed from, or added to, the other.
    if old_beyond or new_beyond:
        old, new, cut = _cut_alike(old, new)
        old_beyond += cut
    lines: list[Line] = []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=True).get_opcodes():
        if kind == "equal":
            lines += [Line("same", (("same", line),)) for line in new[c:d]]
        else:
            lines += _changed(old[a:b], new[c:d])
    return Comparison(tuple(_folded(lines)), max(old_beyond, new_beyond))


def plain_lines(text: str) -> list[str]:
    """Lines that are not blank, each stretch of spaces in them as one, none around them."""
    return [line for each in text.splitlines() if (line := " ".join(each.split()))]


def _lines(text: str) -> tuple[list[str], int]:
    text, beyond = shortened(text, MAX_CHARACTERS)
    lines = plain_lines(text)
    beyond += sum(len(line) for line in lines[MAX_LINES:])
    return lines[:MAX_LINES], beyond


def _cut_alike(old: list[str], new: list[str]) -> tuple[list[str], list[str], int]:
    """Both up to their last common line, so that a cut does not show as a change."""
    common = set(old) & set(new)
    last_old = max((number for number, line in enumerate(old) if line in common), default=len(old) - 1)
    last_new = max((number for number, line in enumerate(new) if line in common), default=len(new) - 1)
    cut = sum(len(line) for line in old[last_old + 1 :])
    return old[: last_old + 1], new[: last_new + 1], cut


def _changed(old: list[str], new: list[str]) -> Iterator[Line]:
    """Removed and added lines in order; a removed line and an added one that share their words are one edited line."""
    position = 0
    for line in old:
        match = next((at for at in range(position, min(position + 4, len(new))) if _similar(line, new[at])), None)
        if match is None:
            yield Line("removed", (("removed", line),))
            continue
        yield from (Line("added", (("added", added),)) for added in new[position:match])
        yield Line("edited", tuple(_pieces(line, new[match])))
        position = match + 1
    yield from (Line("added", (("added", added),)) for added in new[position:])


def _similar(old: str, new: str) -> bool:
    """Whether two lines share their words (not the spaces between them, which all lines share) or placeholders make
    the difference."""
    if _is_redacted(old, new):
        return True
    a, b = ([word for word in _WORDS.findall(line) if not word.isspace()] for line in (old, new))
    if max(len(a), len(b)) > _MAX_WORDS:
        return False
    matcher = difflib.SequenceMatcher(None, a, b)
    return matcher.quick_ratio() >= _MIN_SIMILARITY and matcher.ratio() >= _MIN_SIMILARITY


def _is_redacted(old: str, new: str) -> bool:
    """Whether the new line is the old one with something else where it has placeholders."""
    first, *rest = _PLACEHOLDER.split(new)
    if not rest or not old.startswith(first) or not old.endswith(rest[-1]):
        return False
    if not any(character.isalnum() for part in (first, *rest) for character in part):
        return any(character.isdigit() or character == "@" for character in old)
    position = len(first)
    for part in rest[:-1]:
        position = old.find(part, position)
        if position < 0:
            return False
        position += len(part)
    return position < len(old) - len(rest[-1])


def _pieces(old: str, new: str) -> Iterator[tuple[Change, str]]:
    """What stays, goes and comes between two lines, word by word."""
    a, b = _WORDS.findall(old), _WORDS.findall(new)
    for kind, i, j, k, l in difflib.SequenceMatcher(None, a, b).get_opcodes():
        if kind == "equal":
            yield "same", "".join(b[k:l])
            continue
        if i < j:
            yield "removed", "".join(a[i:j])
        if k < l:
            yield "added", "".join(b[k:l])


def _folded(lines: list[Line]) -> Iterator[Line]:
    """Long runs of equal lines as one line that counts them; texts without a difference stay whole."""
    changes = [number for number, line in enumerate(lines) if line.change != "same"]
    if not changes:
        yield from lines
        return
    near = {near for change in changes for near in range(change - _CONTEXT, change + _CONTEXT + 1)}
    run: list[Line] = []
    for number, line in enumerate(lines):
        if number not in near:
            run.append(line)
            continue
        yield from _fold(run)
        run = []
        yield line
    yield from _fold(run)


def _fold(run: list[Line]) -> list[Line]:
    return run if len(run) < 2 else [Line("fold", folded=len(run))]
