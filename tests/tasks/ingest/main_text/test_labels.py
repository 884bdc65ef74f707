from collections import Counter

import pytest

from modelmill.tasks.ingest.main_text.labels import has_snippet, true_shares, word_f1, words


def test_words_of_both_kinds_of_scripts() -> None:
    assert words("It's 中文 — OK") == ["it", "s", "中", "文", "ok"]


def test_shares_follow_the_order_of_the_text() -> None:
    blocks = [words("home about text"), words("the main text of a page"), words("of a page"), []]
    assert true_shares(blocks, words("The main text of a page.")).tolist() == [0, 1, 0, 0]
    assert true_shares(blocks, []).tolist() == [0, 0, 0, 0]


def test_snippets() -> None:
    assert has_snippet("Say: “Hello,\n world!”", "hello world")
    assert not has_snippet("Othello world", "hello world")


def test_word_f1() -> None:
    assert word_f1(Counter("aab"), Counter("abc")) == pytest.approx(2 / 3)
    assert word_f1(Counter(), Counter()) == 1
