"""Code point → what the text rules need to know about it, as tables built once per process from Unicode's data."""

import functools
import string
import unicodedata
from collections.abc import Callable, Iterable
from importlib import resources
from itertools import chain

import numpy as np
from numpy.typing import NDArray

NUM_CODE_POINTS = 0x110000
# Between and above these planes only private use and unassigned code points lie: they have no class.
CLASSED = (range(0x40000), range(0xE0000, 0xE0200))

# Flags of `classes()`. Compiled functions of other modules hold these numbers, and numba's cache does not notice when
# they change here: a new flag takes a new number, and no flag changes its own.
SPACE = 1  # str.isspace
LINE_END = 2  # str.splitlines cuts here
LETTER = 4  # str.isalpha
UPPER = 8  # letters that may begin a sentence: upper case, or of a script without case
LOWER = 16  # letters that may end one: lower case, or of a script without case
DIGIT = 32  # ASCII digits
SYMBOL = 64  # the punctuation that the published filters do not count as a word
TERMINAL = 128  # ends a sentence
PREFIX = 256  # split from the beginning of a word
SUFFIX = 512  # split from the end of a word
ICON = 1024  # pictures and other symbols, split anywhere
HYPHEN = 2048  # splits two letters
QUOTE = 4096
PUNCTUATION = 8192  # Unicode's categories P*
SINGLE = 16384  # scripts written without spaces: each character counts as a word
INFIX = 32768  # may split a word where it stands inside

# Punctuation that ccNet's normalisation (Wenzek et al. 2020) removes; Gopher's word count in FineWeb leaves out
# words that consist only of it, of sentence ends and of control characters.
_CCNET_SYMBOLS = string.punctuation + "«´»–—’“”„…∶━►、。〈〉《》「」【】！％（），．１：；？～"
# Where words end: brackets, quotes, separators and currency of the scripts on the web (after spaCy 3's word rules).
_BRACKETS_AND_STOPS = "…,:;!?¿؟¡()[]{}<>_#*&。？！，、；：～·।،۔؛٪"
_QUOTES = "'\"”“`‘´’‚,„»«「」『』（）〔〕【】《》〈〉⟦⟧"
_LINE_ENDS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
_WITHOUT_SPACES = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x2E80, 0x2FDF),  # radicals
    (0x3005, 0x3007),
    (0x3021, 0x3029),
    (0x3041, 0x30FF),  # Hiragana, Katakana
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F),
    (0x20000, 0x3FFFF),
)


@functools.cache
def sentence_terminals() -> frozenset[int]:
    """Code points that end a sentence."""
    text = resources.files("modelmill.tasks.text").joinpath("data/sentence_terminal.txt").read_text(encoding="utf-8")
    members: set[int] = set()
    for line in text.splitlines():
        if not line.startswith("#"):
            first, _, last = line.partition("..")
            members.update(range(int(first, 16), int(last or first, 16) + 1))
    return frozenset(members)


@functools.cache
def classed() -> tuple[NDArray[np.int64], str, NDArray[np.str_]]:
    """The code points that have a class, the text of all of them in order, and the category of each ("Lu")."""
    codes = np.concatenate([np.arange(part.start, part.stop) for part in CLASSED])
    text = "".join(map(chr, chain(*CLASSED)))
    return codes, text, np.array(list(map(unicodedata.category, text)))


@functools.cache
def classes() -> NDArray[np.uint16]:
    """Flags of every code point, indexed by it."""
    codes, text, categories = classed()
    table = np.zeros(NUM_CODE_POINTS, np.uint16)
    is_alpha, is_lower, is_upper = (_tested(text, test) for test in (str.isalpha, str.islower, str.isupper))
    _add(table, SPACE, codes[_tested(text, str.isspace)])
    _add(table, LETTER, codes[is_alpha])
    _add(table, UPPER, codes[is_alpha & ~is_lower])
    _add(table, LOWER, codes[is_alpha & ~is_upper])
    _add(table, ICON, codes[(categories == "So") & (codes != ord("°"))])
    _add(table, PUNCTUATION, codes[np.strings.startswith(categories, "P")])
    control = [*range(9), 11, 12, *range(13, 32), *range(127, 160)]
    _add(table, SYMBOL, [*map(ord, _CCNET_SYMBOLS), *control, *sentence_terminals()])
    _add(table, TERMINAL, sentence_terminals())
    currency = codes[(categories == "Sc") & (codes < CLASSED[0].stop)]
    shared = [*map(ord, _BRACKETS_AND_STOPS + _QUOTES + "—–"), *np.flatnonzero(table & ICON)]
    _add(table, PREFIX, [*shared, *currency, *map(ord, "§%=")])
    _add(table, SUFFIX, shared)
    _add(table, QUOTE, map(ord, _QUOTES))
    _add(table, HYPHEN, map(ord, "-–—~"))
    _add(table, INFIX, [*np.flatnonzero(table & (ICON | HYPHEN)), *map(ord, ".…,:/<>=+-*^")])
    _add(table, LINE_END, map(ord, _LINE_ENDS))
    _add(table, DIGIT, map(ord, string.digits))
    words = np.isin(categories.astype("U1"), ["L", "M", "N"])  # only its first letter is kept
    for first, last in _WITHOUT_SPACES:
        _add(table, SINGLE, codes[words & (first <= codes) & (codes <= last)])
    table.flags.writeable = False
    return table


def _tested(text: str, test: Callable[[str], bool]) -> NDArray[np.bool_]:
    return np.fromiter(map(test, text), np.bool_, len(text))


def _add(table: NDArray[np.uint16], flag: int, codes: Iterable[int]) -> None:
    table[np.fromiter(codes, np.int64)] |= np.uint16(flag)
