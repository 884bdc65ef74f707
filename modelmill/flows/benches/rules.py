"""Documents → the rules' speed, whole and one by one, and how often datatrove's filters give the same verdict."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from modelmill.flows.benches.measured import Measured, cpu_seconds, peer
from modelmill.flows.benches.rule_texts import reference_texts, texts_about_thresholds
from modelmill.tasks.clean.c4 import c4_verdict, edited_lines
from modelmill.tasks.clean.config import C4, Config, FineWeb, GopherQuality, GopherRepetition
from modelmill.tasks.clean.fineweb import fineweb_verdict
from modelmill.tasks.clean.gopher import gopher_verdict
from modelmill.tasks.clean.language import identify
from modelmill.tasks.clean.repetition import repetition_verdict
from modelmill.tasks.clean.rules import clean_table
from modelmill.tasks.clean.traits import traits
from modelmill.tasks.clean.verdict import Verdict
from modelmill.tasks.text.flat import characters
from modelmill.tasks.text.words import words

Reasons = list[str | None]
FILTERS = ("gopher", "repetition", "c4", "fineweb")
_NAMES = {
    "gopher_short_doc": "gopher_too_few_words",
    "gopher_long_doc": "gopher_too_many_words",
    "gopher_below_avg_threshold": "gopher_words_too_short",
    "gopher_above_avg_threshold": "gopher_words_too_long",
    "gopher_too_many_hashes": "gopher_too_many_hashes",
    "gopher_too_many_ellipsis": "gopher_too_many_ellipses",
    "gopher_too_many_bullets": "gopher_too_many_bullet_lines",
    "gopher_too_many_end_ellipsis": "gopher_too_many_ellipsis_lines",
    "gopher_below_alpha_threshold": "gopher_too_few_alphabetic_words",
    "gopher_enough_stop_words": "gopher_too_few_stop_words",
    "empty": "empty",
    "dup_para_frac": "repetition_duplicate_paragraphs",
    "dup_para_char_frac": "repetition_duplicate_paragraph_characters",
    "dup_line_frac": "repetition_duplicate_lines",
    "dup_line_char_frac": "repetition_duplicate_line_characters",
    **{f"top_{size}_gram": f"repetition_top_{size}_gram" for size in (2, 3, 4)},
    **{f"duplicated_{size}_n_grams": f"repetition_duplicate_{size}_grams" for size in range(5, 11)},
    "lorem_ipsum": "c4_lorem_ipsum",
    "curly_bracket": "c4_curly_bracket",
    "too_few_sentences": "c4_too_few_sentences",
    "line_punct_ratio": "fineweb_line_punctuation",
    "short_line_ratio": "fineweb_short_lines",
    "char_dup_ratio": "fineweb_duplicate_line_characters",
    "list_ratio": "fineweb_newlines",
}
# Two names of ours for what datatrove's filters call one.
_OURS = {"c4_no_line_left": "c4_too_few_sentences", "fineweb_empty": "empty"}


def measure(texts: Sequence[str] | None = None) -> list[Measured]:
    """Documents per CPU-second of the whole chain, its steps, and datatrove's four filters; agreement with them."""
    texts = texts or reference_texts() + texts_about_thresholds(500)
    table = pa.table({"text": pa.array(texts, pa.large_string())})
    size = sum(map(len, texts)) / len(texts)
    timed: dict[str, Callable[[], object]] = {
        "whole chain": lambda: clean_table(table, Config()),
        "language": lambda: identify(table["text"]),
        **{name: partial(_reasons_of, name, texts) for name in FILTERS},
        "four filters": partial(verdicts, texts),
    }
    note = f"{size:,.0f} characters a document"
    found = [
        Measured(f"rules: {step}", "modelmill", len(texts) / cpu_seconds(call), "documents/s", note=note)
        for step, call in timed.items()
    ]
    return [*found, peer("rules: four filters", "datatrove", "datatrove spacy", lambda: _datatrove(texts))]


def _datatrove(texts: Sequence[str]) -> Measured:
    theirs: dict[str, Reasons] = {}
    sample = texts[: max(1, min(len(texts), 300))]  # about ten a second
    seconds = cpu_seconds(lambda: theirs.update(datatrove_verdicts(sample)), repeats=1)
    agreed = agreement(verdicts(sample), theirs)
    note = f"{len(sample)} documents; shares with the same verdict"
    return Measured("rules: four filters", "datatrove", len(sample) / seconds, "documents/s", agreed, note)


def agreement(ours: dict[str, Reasons], theirs: dict[str, Reasons]) -> dict[str, float]:
    """For each filter and the chain, the share of documents that both keep or both drop."""
    return {
        name: float(
            np.mean([(one is None) == (other is None) for one, other in zip(ours[name], theirs[name], strict=True)])
        )
        for name in theirs
    }


def verdicts(texts: Sequence[str]) -> dict[str, Reasons]:
    """Our reason for dropping each document, None where it stays, by each filter alone and by all four in a chain."""
    found = {name: _reasons_of(name, texts) for name in FILTERS}
    edited = _edited(texts)[0]
    after = _named(fineweb_verdict(edited, words(edited), [traits("en")] * len(texts), FineWeb()))
    chain = zip(found["gopher"], found["repetition"], found["c4"], after, strict=True)
    return found | {"chain": [next((reason for reason in row if reason), None) for row in chain]}


def _reasons_of(name: str, texts: Sequence[str]) -> Reasons:
    flat, english = characters(pa.array(texts, pa.large_string())), [traits("en")] * len(texts)
    if name == "gopher":
        return _named(gopher_verdict(flat, words(flat), english, GopherQuality()))
    if name == "repetition":
        return _named(repetition_verdict(flat, words(flat), english, GopherRepetition()))
    if name == "fineweb":
        return _named(fineweb_verdict(flat, words(flat), english, FineWeb()))
    edited, flags = _edited(texts)
    return _named(c4_verdict(edited, words(edited), flags, C4()))


def _edited(texts: Sequence[str]) -> tuple[Any, Any]:
    return edited_lines(characters(pa.array(texts, pa.large_string())), [traits("en")] * len(texts), C4())


def _named(verdict: Verdict) -> Reasons:
    reasons: Reasons = [None] * len(verdict.kept)
    dropped = verdict.split(pa.table({"row": np.arange(len(reasons))}))[1]
    for row, reason in zip(dropped["row"].to_pylist(), dropped["reason"].to_pylist(), strict=True):
        reasons[row] = _OURS.get(reason, reason)
    return reasons


def datatrove_verdicts(texts: Sequence[str]) -> dict[str, Reasons]:
    """What datatrove's four filters say, each alone and in a chain, under our names for the reasons.

    Raises:
        ImportError: datatrove, or spaCy, which cuts its words, is not installed.
    """
    judges = _datatrove_filters()
    judged = {name: [judges[name](text) for text in texts] for name in FILTERS}
    found: dict[str, Reasons] = {name: [reason for reason, _ in judged[name]] for name in FILTERS}
    # Only C4's filter edits the text, so that FineWeb's alone sees another one in a chain.
    before = zip(found["gopher"], found["repetition"], found["c4"], strict=True)
    first = [next((reason for reason in row if reason), None) for row in before]
    edited = [text for _, text in judged["c4"]]
    found["chain"] = [one or judges["fineweb"](text)[0] for one, text in zip(first, edited, strict=True)]
    return found


def _datatrove_filters() -> dict[str, Callable[[str], tuple[str | None, str]]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import spacy  # noqa: F401
        from datatrove.data import Document
        from datatrove.pipeline.filters.c4_filters import C4QualityFilter
        from datatrove.pipeline.filters.fineweb_quality_filter import FineWebQualityFilter
        from datatrove.pipeline.filters.gopher_quality_filter import GopherQualityFilter
        from datatrove.pipeline.filters.gopher_repetition_filter import GopherRepetitionFilter

    filters = (GopherQualityFilter(), GopherRepetitionFilter(), C4QualityFilter(), FineWebQualityFilter())

    def judge(judged_by: Any, text: str) -> tuple[str | None, str]:
        document = Document(text=text, id="")
        result = judged_by.filter(document)
        return (_NAMES[result[1]] if isinstance(result, tuple) else None), document.text

    return {name: lambda text, one=one: judge(one, text) for name, one in zip(FILTERS, filters, strict=True)}
