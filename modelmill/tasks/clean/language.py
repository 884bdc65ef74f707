"""Texts → language (ISO 639) and confidence of each: eldc's n-grams, CLD2's where eldc is unsure or knows too little.

eldc knows 60 languages, CLD2 the other hundred, and is slower. On paragraphs of the Universal Declaration of Human
Rights eldc gives 99 % of its right answers a score above 0.8, and 95 % of the texts in languages that it does not know
a lower one; the rest of those are close relatives of one that it knows, for which `_SURE_OF` asks for more.
"""

import functools
from collections import defaultdict
from collections.abc import Sequence

import eldc
import numpy as np
import pyarrow as pa
import pycld2
from numpy.typing import NDArray

from modelmill.tasks.clean.code import Script, script
from modelmill.tasks.clean.verdict import Verdict
from modelmill.tasks.text.flat import Characters, characters

UNKNOWN = "und"
CODE = "zxx"  # ISO 639-2: no linguistic content
# eldc reads the first 1,000 bytes of what it is given: a long text is judged by its beginning, middle and end.
WINDOW = 1000
CODE_SHARE = 0.75  # files of code begin at 0.7 (without long comments), reference manuals reach 0.6, web pages 0.3
MIXED_SHARE = 0.3  # from here on the language is that of the lines that are not code
MIN_LETTERS = 3
_HAN = 5
# eldc's score from which CLD2 is not asked. Lists and headings lower that of English pages, and hardly another language
# comes near English; above 1 for those that eldc takes others for however sure it is (Indonesian for Malay, ...).
_SURE = 0.8
_SURE_OF = {
    "en": 0.6,
    **dict.fromkeys(("ca", "es", "fi", "he", "is", "it", "pt", "ru", "tr"), 0.9),
    **dict.fromkeys(("am", "fa", "hi", "mr", "ms", "nl", "sr", "tl", "ur"), 1.1),
}
# CLD2's score per kilobyte: 95 % of right answers have more, three quarters of languages that it does not know less.
_SURE_CLD2 = 530
# CLD2's codes where ISO 639 or eldc has another; the variants of Chinese are one language, as are both Norwegians.
_ISO = {"iw": "he", "jw": "jv", "zh-Hant": "zh", "nn": "no", "bs": "hr"}


@functools.cache
def _detector():
    eldc.init()
    return eldc.instance()


@functools.cache
def languages() -> frozenset[str]:
    """All codes that `identify` can give, besides UNKNOWN and CODE."""
    names = dict(pycld2.LANGUAGES)
    codes = {str(names[name]) for name in pycld2.DETECTED_LANGUAGES}
    return _eldc_languages() | {_ISO.get(code, code) for code in codes if not code.startswith("xx-")}


def identify(texts: Sequence[str] | pa.ChunkedArray | pa.Array) -> tuple[list[str], NDArray[np.float32]]:
    """Language and confidence (0 to 1) of each text.

    UNKNOWN and 0 where there is nothing to go by (numbers, bare markup), CODE where lines of program code make up most
    of a text, with their share; where they make up less, the language is that of the other lines. A text is Chinese
    where Han characters are a fifth of its letters, since one says as much as about four of an alphabet.
    """
    column = pa.array(texts, pa.large_string()) if isinstance(texts, Sequence) else texts
    flat = characters(column)
    written = script(flat)
    languages = np.full(len(flat), UNKNOWN, object)
    scores = np.zeros(len(flat), np.float32)
    has_letters = written.letters >= MIN_LETTERS
    code_share = written.code_share
    is_code = has_letters & (code_share >= CODE_SHARE)
    is_chinese = has_letters & ~is_code & (_HAN * written.han >= written.letters) & (20 * written.kana <= written.han)
    languages[is_code], scores[is_code] = CODE, code_share[is_code]
    languages[is_chinese] = "zh"
    scores[is_chinese] = np.minimum(1, 0.5 + written.han[is_chinese] / written.letters[is_chinese])
    mixed = code_share >= MIXED_SHARE
    strings = column.to_pylist()
    rest = np.flatnonzero(has_letters & ~is_code & ~is_chinese)
    found = [_identify(_outside_code(flat, written, row) if mixed[row] else strings[row]) for row in rest.tolist()]
    languages[rest] = [language for language, _ in found]
    scores[rest] = [score for _, score in found]
    return languages.tolist(), scores


def identify_lines(text: str) -> tuple[list[str], list[str], NDArray[np.float32]]:
    """Lines of a text, language and confidence of each: for pages that mix languages. Short lines are guesses."""
    lines = text.splitlines()
    return lines, *identify(lines)


def _outside_code(flat: Characters, written: Script, row: int) -> str:
    start, end = flat.offsets[row], flat.offsets[row + 1]
    return flat.codes[start:end][~written.in_code[start:end]].tobytes().decode("utf-32-le")


def _identify(text: str) -> tuple[str, float]:
    if len(text) <= WINDOW:
        return _identify_window(text)
    middle, end = (len(text) - WINDOW) // 2, len(text) - WINDOW
    windows = [_identify_window(text[start : start + WINDOW]) for start in (0, middle, end)]
    known = [(language, score) for language, score in windows if language != UNKNOWN]
    totals: dict[str, float] = defaultdict(float)
    for language, score in known:
        totals[language] += score
    if not totals:
        return UNKNOWN, 0.0
    best = max(totals, key=lambda language: (totals[language], language))
    return best, totals[best] / len(known)


def _identify_window(text: str) -> tuple[str, float]:
    result = _detector().detect_details(text)
    language = result.language or UNKNOWN
    score = result.scores.get(language, 0.0)
    if score >= _SURE_OF.get(language, _SURE):
        return language, score
    other, other_score = _identify_by_cld2(text)
    if other == language:
        return language, max(score, other_score)
    return (language, score) if _keeps(score, other, other_score) else (other, other_score)


def _keeps(score: float, other: str, other_score: float) -> bool:
    """Whether eldc's language stands against another of CLD2's.

    It does between two languages that eldc knows, unless its score is next to nothing, and where CLD2 is far less sure.
    (On country names of Unicode's CLDR, far shorter than paragraphs, taking CLD2's word costs 9 points of accuracy.)
    """
    if other in _eldc_languages():
        return score > 0.4 or other_score < 0.65
    return other == UNKNOWN or other_score < score - 0.3 < 0.5


@functools.cache
def _eldc_languages() -> frozenset[str]:
    return frozenset(code for code in eldc.LANGUAGES if code)


def _identify_by_cld2(text: str) -> tuple[str, float]:
    try:
        _, _, found = pycld2.detect(text, isPlainText=True, bestEffort=True)
    except pycld2.error:  # control characters and the like
        printable = "".join(character if character.isprintable() else " " for character in text)
        _, _, found = pycld2.detect(printable, isPlainText=True, bestEffort=True)
    _, code, percent, strength = found[0]
    if code == "un" or code.startswith("xx-"):  # the latter name a script alone
        return UNKNOWN, 0.0
    return _ISO.get(code, str(code)), percent / 100 * min(1.0, strength / _SURE_CLD2)


def with_language(table: pa.Table, column: str = "text") -> pa.Table:
    """The table with columns language (string) and language_score (float32), replaced if they exist."""
    languages, scores = identify(table[column].fill_null(""))
    for name, values in (("language", pa.array(languages, pa.string())), ("language_score", pa.array(scores))):
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, values)
        else:
            table = table.append_column(name, values)
    return table


def language_verdict(table: pa.Table, languages: Sequence[str], min_score: float) -> Verdict:
    """Judge rows by their columns language and language_score."""
    verdict = Verdict(table.num_rows)
    found = np.array(table["language"].to_pylist(), dtype=object)
    verdict.drop(found == UNKNOWN, "language_unknown")
    if languages:
        verdict.drop(~np.isin(found.astype(str), list(languages)), "language_not_wanted")
    # A score is stored as float32: compare with the limit as float32, so that a page at the limit passes.
    verdict.drop(table["language_score"].to_numpy() < np.float32(min_score), "language_uncertain")
    return verdict
