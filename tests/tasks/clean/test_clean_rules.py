"""Gopher's, C4's and FineWeb's rules at their thresholds, on texts made to lie on either side."""

import json
from collections.abc import Mapping
from importlib import resources
from types import MappingProxyType

import pyarrow as pa
import pytest

from modelmill.tasks.clean.c4 import c4_verdict, edited_lines
from modelmill.tasks.clean.config import C4, FineWeb, GopherQuality
from modelmill.tasks.clean.fineweb import fineweb_verdict
from modelmill.tasks.clean.gopher import gopher_verdict
from modelmill.tasks.clean.traits import LanguageTraits, traits
from modelmill.tasks.clean.verdict import Verdict
from modelmill.tasks.text.flat import characters, string_array
from modelmill.tasks.text.words import words

NOTHING: Mapping[str, object] = MappingProxyType({})


def reason(verdict: Verdict) -> str | None:
    dropped = verdict.split(pa.table({"row": [0]}))[1]["reason"].to_pylist()
    return dropped[0] if dropped else None


def gopher(text: str, limits: Mapping[str, float], language: str = "en") -> str | None:
    nothing = dict.fromkeys(GopherQuality.model_fields.keys() - {"enabled"})
    texts = characters(pa.array([text]))
    return reason(
        gopher_verdict(texts, words(texts), [traits(language)], GopherQuality.model_validate({**nothing, **limits}))
    )


@pytest.mark.parametrize(
    ("text", "limit", "passing", "failing", "expected"),
    [
        ("one two, three", "min_words", 3, 4, "gopher_too_few_words"),
        ("one two, three", "max_words", 3, 2, "gopher_too_many_words"),
        ("ab abcd", "min_mean_word_length", 3, 3.1, "gopher_words_too_short"),
        ("ab abcd", "max_mean_word_length", 3, 2.9, "gopher_words_too_long"),
        ("a # b c", "max_symbol_word_ratio", 0.25, 0.24, "gopher_too_many_hashes"),
        ("a... b c", "max_symbol_word_ratio", 0.25, 0.24, "gopher_too_many_ellipses"),
        ("- a\n  • b\nc\nd", "max_bullet_lines", 0.5, 0.49, "gopher_too_many_bullet_lines"),
        ("a...\nb… \nc\nd", "max_ellipsis_lines", 0.5, 0.49, "gopher_too_many_ellipsis_lines"),
        ("a b 1 ,", "min_alphabetic_words", 0.5, 0.51, "gopher_too_few_alphabetic_words"),
        ("the cat of the hat", "min_stop_words", 2, 3, "gopher_too_few_stop_words"),
    ],
)
def test_gopher_at_the_threshold(text: str, limit: str, passing: float, failing: float, expected: str) -> None:
    assert gopher(text, {limit: passing}) is None
    assert gopher(text, {limit: failing}) == expected
    assert gopher(text, {}) is None


def test_gopher_follows_the_language() -> None:
    chinese = "我们的学校在城里，是一座很大的学校。"
    assert gopher(chinese, {"min_mean_word_length": 3, "min_stop_words": 2}, "zh") is None
    assert gopher(chinese, {"min_mean_word_length": 3}) == "gopher_words_too_short"
    assert gopher("no list for this language", {"min_stop_words": 2}, "ka") is None


def c4(text: str, settings: Mapping[str, object] = NOTHING, language: str = "en") -> tuple[str, str | None]:
    config = C4.model_validate({"min_sentences": None} | dict(settings))
    edited, flags = edited_lines(characters(pa.array([text])), [traits(language)], config)
    return string_array(edited).to_pylist()[0], reason(c4_verdict(edited, words(edited), flags, config))


GOOD = "This line ends well."


@pytest.mark.parametrize(
    ("line", "switch"),
    [
        ("This line has no end", "require_terminal_punctuation"),
        ("This line trails off...", "require_terminal_punctuation"),
        ("Please enable Javascript to go on.", "remove_javascript_lines"),
        ("Read our Privacy Policy before you go.", "remove_policy_lines"),
        ("This site uses cookies for its work.", "remove_policy_lines"),
    ],
)
def test_c4_removes_lines_and_can_be_told_not_to(line: str, switch: str) -> None:
    text = f"{GOOD}\n  {line}  \n{GOOD}"
    assert c4(text)[0] == f"{GOOD}\n{GOOD}"
    assert c4(text, {switch: False})[0] == f"{GOOD}\n{line}\n{GOOD}"


def test_c4_counts_words_of_a_line_and_measures_the_longest() -> None:
    assert c4(f"Two words.\nNow three words.\n{GOOD}")[0] == f"Now three words.\n{GOOD}"
    assert c4(f"Two words.\n{GOOD}", {"min_words_per_line": 2})[0] == f"Two words.\n{GOOD}"
    long = "x" * 1001
    assert c4(f"A {long} word.\n{GOOD}")[0] == GOOD
    assert c4(f"A {long[:-1]} word.\n{GOOD}")[0].count("\n") == 1


def test_c4_takes_out_citations() -> None:
    assert c4("Paris[1] is large[citation needed] and old[23].")[0] == "Paris is large and old."
    assert c4("Paris[1] is large.", {"remove_citations": False})[0] == "Paris[1] is large."


def test_c4_drops_pages() -> None:
    assert c4(f"{GOOD}\nHere stands Lorem Ipsum again.")[1] == "c4_lorem_ipsum"
    assert c4(f"{GOOD}\nint main() {'{'} return 0; too.")[1] == "c4_curly_bracket"
    assert c4(f"{GOOD}\nint main() {'{'} return 0; too.", {"drop_curly_bracket": False})[1] is None
    assert c4("Nothing here")[1] == "c4_no_line_left"


def test_c4_counts_sentences_within_lines() -> None:
    text = 'One is here. Two is here! "Three is here." He said.\nMr. Four is here.'
    assert c4(text, {"min_sentences": 5})[1] is None
    assert c4(text, {"min_sentences": 6})[1] == "c4_too_few_sentences"


def test_c4_knows_the_sentence_marks_of_other_scripts() -> None:
    line = "我们的学校在城里。"
    assert c4(line, {}, "zh")[0] == line
    assert c4(line)[0] == ""


def fineweb(text: str, limits: Mapping[str, float], language: str = "en") -> str | None:
    nothing = dict.fromkeys(FineWeb.model_fields.keys() - {"enabled", "short_line_length"})
    texts = characters(pa.array([text]))
    return reason(
        fineweb_verdict(texts, words(texts), [traits(language)], FineWeb.model_validate({**nothing, **limits}))
    )


@pytest.mark.parametrize(
    ("text", "limit", "passing", "failing", "expected"),
    [
        ("a b.\n\nc d\ne f\ng h", "min_line_punctuation", 0.25, 0.26, "fineweb_line_punctuation"),
        ("x" * 30 + "\n" + "y" * 31, "max_short_lines", 0.5, 0.49, "fineweb_short_lines"),
        ("abc\nabc\nxyz", "max_duplicate_line_characters", 3 / 9, 0.33, "fineweb_duplicate_line_characters"),
        ("a b\nc d", "max_newlines_per_word", 0.25, 0.24, "fineweb_newlines"),
    ],
)
def test_fineweb_at_the_threshold(text: str, limit: str, passing: float, failing: float, expected: str) -> None:
    assert fineweb(text, {limit: passing}) is None
    assert fineweb(text, {limit: failing}) == expected
    assert fineweb(" \n\n ", {}) == "fineweb_empty"


def test_short_lines_are_shorter_in_chinese() -> None:
    text = "学" * 11 + "\n" + "校" * 10
    assert fineweb(text, {"max_short_lines": 0.5}, "zh") is None
    assert fineweb(text, {"max_short_lines": 0.5}) == "fineweb_short_lines"


def test_words_may_be_longer_in_german_and_shorter_in_persian() -> None:
    long, short = " ".join(["x" * 12] * 3), "abc ab abc"
    assert [gopher(long, {"max_mean_word_length": 10}, code) for code in ("en", "de", "fa")] == [
        "gopher_words_too_long", None, "gopher_words_too_long"
    ]  # fmt: skip
    assert [gopher(short, {"min_mean_word_length": 3}, code) for code in ("en", "de", "fa")] == [
        "gopher_words_too_short", "gopher_words_too_short", None
    ]  # fmt: skip


def test_english_has_the_published_thresholds_and_every_figure_its_source() -> None:
    assert traits("en") == LanguageTraits(stop_words=traits("en").stop_words)
    text = resources.files("modelmill.tasks.clean").joinpath("data/languages.json").read_text(encoding="utf-8")
    entries, fields = json.loads(text)["languages"], json.loads(text)["fields"]
    for entry in entries.values():
        assert entry.keys() <= fields.keys()
        assert "derived" in entry or not entry.keys() & {"word_length", "top_ngrams", "duplicate_ngrams"}
