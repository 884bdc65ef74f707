"""Address, language and safety."""

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from modelmill.tasks.clean.config import Config, Safety, UrlRules, external_digests
from modelmill.tasks.clean.language import identify, language_verdict, with_language
from modelmill.tasks.clean.safety import safety_verdict
from modelmill.tasks.clean.urls import listed_domains, url_verdict
from modelmill.tasks.errors import InputError

ENGLISH = "The committee met on Tuesday and agreed that the new bridge should be opened before the winter begins."
CHINESE = "委员会于星期二开会，同意在冬天开始之前开放新桥。市民们对此表示欢迎，认为这将大大改善交通状况。"
GERMAN = "Der Ausschuss traf sich am Dienstag und beschloss, dass die neue Brücke vor dem Winter geöffnet wird."


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://docs.python.org/3/", True),
        ("https://www.xvideos.com/x", False),
        ("http://user@Some.Host.PORN:8080/a", False),
        ("https://notxvideos.com/x", True),
        ("https://example.org/free-xxx-clips", False),
        ("https://example.org/xxxl-shirts", True),
        ("https://spam.example.net/page", False),
        ("https://fine.example.net/page", True),
        (None, True),
        ("", True),
    ],
)
def test_addresses_are_judged_by_domain_and_word(url: str | None, kept: bool, tmp_path: Path) -> None:
    listed = tmp_path / "blocked.txt"
    listed.write_text("# a list\nspam.example.net\n")
    rules = UrlRules(block_list_files=(str(listed),))
    assert url_verdict(pa.array([url], pa.string()), rules).kept.tolist() == [kept]


def test_the_recipe_has_the_last_word_on_addresses() -> None:
    urls = pa.array(["https://a.stake.com/x", "https://b.org/banned-thing", "https://b.org/"])
    rules = UrlRules(allowed_domains=("stake.com",), blocked_words=("banned",), blocked_domains=("b.org",))
    dropped = url_verdict(urls, rules).split(pa.table({"url": urls}))[1]
    assert dropped["reason"].to_pylist() == ["url_blocked_domain", "url_blocked_domain"]
    rules = UrlRules(use_built_in_list=False)
    assert url_verdict(urls, rules).kept.all()


LISTED = """# a hosts file
127.0.0.1 localhost
::1 ip6-localhost
0.0.0.0 ads.example.com  # with a note
*.wild.example.org
||rule.example.net^
||part.example.net/banner^
@@||exception.example.net^
! a comment
Plain.Example.DE
"""


@pytest.mark.parametrize(
    ("name", "packed"),
    [("list.txt", bytes), ("list.gz", gzip.compress), ("list.xz", lzma.compress), ("list.bz2", bz2.compress)],
)
def test_lists_are_read_in_the_formats_they_come_in(
    name: str, packed: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(packed(LISTED.encode()))
    expected = ["ads.example.com", "wild.example.org", "rule.example.net", "plain.example.de"]
    assert listed_domains(path) == expected
    (tmp_path / "broken.gz").write_bytes(LISTED.encode())
    with pytest.raises(InputError, match=r"broken\.gz cannot be read"):
        listed_domains(tmp_path / "broken.gz")


def test_a_block_list_enters_the_key_by_content(tmp_path: Path) -> None:
    listed = tmp_path / "blocked.txt"
    listed.write_text("a.org\n")
    config = Config(url=UrlRules(block_list_files=(str(listed),)))
    before = external_digests(config)
    listed.write_text("b.org\n")
    assert external_digests(config) != before
    with pytest.raises(InputError, match="not found"):
        external_digests(Config(url=UrlRules(block_list_files=("missing.txt",))))


def test_languages_are_identified_and_judged() -> None:
    languages, scores = identify([ENGLISH, CHINESE, GERMAN, "", "12 34"])
    assert languages == ["en", "zh", "de", "und", "und"]
    assert (scores[:3] > 0.65).all()
    assert (scores[3:] == 0).all()
    table = with_language(pa.table({"text": [ENGLISH, CHINESE, GERMAN, ""]}))
    dropped = language_verdict(table, ["en", "zh"], 0.5).split(table)[1]
    assert dropped["reason"].to_pylist() == ["language_not_wanted", "language_unknown"]


def test_a_language_score_at_the_threshold_passes() -> None:
    table = with_language(pa.table({"text": [ENGLISH]}))
    score = table["language_score"][0].as_py()
    assert language_verdict(table, (), score).kept.all()
    dropped = language_verdict(table, (), score + 1e-3).split(table)[1]
    assert dropped["reason"].to_pylist() == ["language_uncertain"]


def test_a_long_text_is_judged_by_all_its_parts() -> None:
    languages, _ = identify([CHINESE * 2 + ENGLISH * 60])
    assert languages == ["en"]


def test_unsafe_words_count_by_density() -> None:
    texts = pa.array(["casino casino casino " + "word " * 597, "casino casino " * 5, "Casino 博彩 赌场 Scunthorpe"])
    config = Safety(max_density=0.005, min_count=3)
    verdict, _ = safety_verdict(texts, pa.array([600, 10, 4]).to_numpy(), config)
    assert verdict.kept.tolist() == [False, False, False]
    verdict, _ = safety_verdict(texts, pa.array([601, 4000, 4]).to_numpy(), config)
    assert verdict.kept.tolist() == [True, True, False]


def test_the_safety_score_knows_what_unsafe_words_are_about() -> None:
    texts = pa.array(
        [
            "Play at the best casino and roulette site and win the jackpot.",
            "Police and prosecutors say the casino cheated victims; the court heard of roulette and the jackpot.",
            "The river has seven bridges.",
        ]
    )
    verdict, scores = safety_verdict(texts, pa.array([12, 17, 5]).to_numpy(), Safety(max_density=1, max_score=0.9))
    assert scores[0] > 0.9 > 0.1 > scores[1]
    assert scores[2] < 0.1
    assert verdict.split(pa.table({"row": [0, 1, 2]}))[1].to_pylist() == [{"row": 0, "reason": "unsafe_score"}]
