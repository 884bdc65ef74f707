"""Language codes → what the rules must know of a language: stop words, word length, sentence marks."""

import functools
import json
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True)
class LanguageTraits:
    """Where a language differs from English, which the published thresholds were set for.

    min_word_length: smallest plausible mean word length where characters count as words, else None.
    word_length: mean word length as a multiple of English's.
    top_ngrams, duplicate_ngrams: what the limits on repeated n-grams are multiplied by.
    short_line: length of a short line as a share of the English one.
    own_terminals: sentences end in marks other than the ASCII ones.
    """

    stop_words: tuple[str, ...] = ()
    min_word_length: float | None = None
    word_length: float = 1.0
    top_ngrams: float = 1.0
    duplicate_ngrams: float = 1.0
    short_line: float = 1.0
    own_terminals: bool = False


@functools.cache
def _all_traits() -> dict[str, LanguageTraits]:
    text = resources.files("modelmill.tasks.clean").joinpath("data/languages.json").read_text(encoding="utf-8")
    return {code: _parsed(entry) for code, entry in json.loads(text)["languages"].items()}


def _parsed(entry: dict) -> LanguageTraits:
    return LanguageTraits(
        tuple(entry.get("stop_words", "").split()),
        entry.get("min_word_length"),
        entry.get("word_length", 1.0),
        entry.get("top_ngrams", 1.0),
        entry.get("duplicate_ngrams", 1.0),
        entry.get("short_line", 1.0),
        entry.get("own_terminals", False),
    )


def traits(language: str) -> LanguageTraits:
    """Traits of an ISO 639-1 code; a language without an entry has no stop words and English lengths."""
    return _all_traits().get(language, LanguageTraits())
