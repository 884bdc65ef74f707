"""What the checks of personal data share: a place in the view, what stands before it, and what was found there."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

# How far before a number the word may stand that says what it is.
CONTEXT_CHARACTERS = 40


@dataclass(frozen=True)
class Place:
    """A span of a view (see candidates.py): one byte a character, rows end in a newline.

    row_begin: where the row begins in the view. text: the row as it came, for words in any script.
    """

    view: bytes
    begin: int
    end: int
    row_begin: int
    text: str

    def matches(self, pattern: re.Pattern[bytes], after: int = 4) -> Iterator[re.Match[bytes]]:
        """Matches that begin in the span and may end `after` characters behind it."""
        for match in pattern.finditer(self.view, self.begin, self.end + after):
            if match.start() < self.end:
                yield match

    def before(self, position: int, length: int = CONTEXT_CHARACTERS) -> str:
        """What stands before a position of the view in its row, in lower case."""
        index = position - self.row_begin
        return self.text[max(index - length, 0) : index].lower()


@dataclass(frozen=True)
class Found:
    """Characters `begin` to `end` of a view are personal data of this kind."""

    kind: str
    begin: int
    end: int


_NOT_DIGITS = bytes(byte for byte in range(256) if not 48 <= byte <= 57)
Check = Callable[[Place], Iterator[Found]]


def digits_of(text: bytes) -> str:
    """Only the digits."""
    return text.translate(None, _NOT_DIGITS).decode()
