"""Lines of furniture and of repeated content, and pages of differences."""

from collections.abc import Mapping
from types import MappingProxyType

import pyarrow as pa
import pytest

from modelmill.tasks.clean.config import Config, Diffs, RefinedWeb, RepeatedLines
from modelmill.tasks.clean.diffs import diff_verdict
from modelmill.tasks.clean.lines import refinedweb_lines, without_repeated_lines
from modelmill.tasks.clean.rules import clean_rows
from modelmill.tasks.text.flat import characters, string_array
from modelmill.tasks.text.words import words

PROSE = "The committee met on Tuesday and agreed that the bridge should open before the winter begins."
NOTHING: Mapping[str, object] = MappingProxyType({})


def refined(text: str, settings: Mapping[str, object] = NOTHING) -> tuple[str, bool]:
    config = RefinedWeb.model_validate({"max_removed_words": None} | dict(settings))
    edited, verdict = refinedweb_lines(characters(pa.array([text])), config)
    return string_array(edited).to_pylist()[0], bool(verdict.kept[0])


@pytest.mark.parametrize(
    ("line", "switch"),
    [
        ("ABOUT US and MORE NEWS", {"max_upper_case": None}),
        ("2024-01-31 12:30", {"remove_numerals": False}),
        ("Search", {"remove_single_words": False}),
        ("3 likes", {"remove_furniture": False}),
        ("1,204 Comments", {"remove_furniture": False}),
        ("Sign in to vote", {"remove_furniture": False}),
        ("Continue reading »", {"remove_furniture": False}),
        ("There are 2 items in your cart now", {"furniture_words": 5}),
    ],
)
def test_furniture_goes_and_can_be_told_to_stay(line: str, switch: dict[str, object]) -> None:
    text = f"{PROSE}\n{line}\n\n{PROSE}"
    assert refined(text)[0] == f"{PROSE}\n\n{PROSE}"
    assert refined(text, switch)[0] == text


@pytest.mark.parametrize(
    "line", ["He has three likes and dislikes.", "NASA and ESA met there", "Signs of spring", "第三章"]
)
def test_other_short_lines_stay(line: str) -> None:
    text = f"{PROSE}\n{line}"
    assert refined(text, {"remove_single_words": False})[0] == text


def test_a_page_that_loses_too_many_words_is_dropped() -> None:
    text = "\n".join([*["a b c d e f g h i"] * 2, "3 likes"])  # 2 of 20 words
    assert refined(text, {"max_removed_words": 0.1})[1]
    assert not refined(text, {"max_removed_words": 0.09})[1]


def test_lines_of_a_log_go_and_the_first_stays() -> None:
    log = [f"{hour}:04:17 worker {hour} lost its connection to the queue after {hour * 7} tries" for hour in range(5)]
    text = "\n".join([PROSE, *log, "It was restarted by hand on the next day, and nothing was lost."])
    texts = characters(pa.array([text, PROSE]))
    edited = string_array(without_repeated_lines(texts, words(texts), RepeatedLines())).to_pylist()
    assert edited == ["\n".join([PROSE, log[0], text.splitlines()[-1]]), PROSE]
    for settings in ({"max_coverage": 1.0}, {"min_words": 20}, {"ngram": 20}):
        config = RepeatedLines.model_validate(settings)
        assert string_array(without_repeated_lines(texts, words(texts), config)).to_pylist()[0] == text


PATCH = """diff --git a/one.py b/one.py
@@ -1,3 +1,3 @@ def one():
-    return 1
+    return 2
 # the end"""
WIKI = "Revision as of 12:01, 3 May 2020\nLatest revision as of 09:10, 4 May 2020\nLine 1:\nold\nLine 1:\nnew"


def test_pages_of_differences_are_dropped() -> None:
    texts = [PATCH, PATCH + f"\n{PROSE}" * 9, "- a list\n- of things\n+ more", WIKI, WIKI.replace("Line", "Part"), None]
    dropped = diff_verdict(pa.array(texts), Diffs()).split(pa.table({"row": range(6)}))[1]
    assert dropped.to_pylist() == [{"row": 0, "reason": "code_diff"}, {"row": 3, "reason": "wiki_diff"}]
    assert diff_verdict(pa.array([PATCH]), Diffs(max_changed_lines=0.4)).kept.all()
    assert diff_verdict(pa.array([WIKI]), Diffs(min_wiki_line_numbers=3)).kept.all()


def test_the_chain_applies_them_when_told_to() -> None:
    sentences = [
        f"{PROSE[:-1]} of the year {year}, which a visitor from town {year} had asked for." for year in "abcdef"
    ]
    page = "\n".join([*sentences, "17 comments"])
    off = {name: {"enabled": False} for name in ("repetition", "c4", "fineweb")}
    plain, _ = clean_rows(pa.table({"text": [page]}), Config.model_validate(off))
    assert plain["text"].to_pylist() == [page]
    edited, _ = clean_rows(pa.table({"text": [page]}), Config.model_validate(off | {"refinedweb": {"enabled": True}}))
    assert edited["text"].to_pylist() == ["\n".join(sentences)]
