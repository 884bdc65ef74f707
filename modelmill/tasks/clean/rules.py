"""A table of pages → the documents that pass every rule, edited, and the dropped pages with their reason."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from modelmill.tasks.clean.c4 import c4_verdict, edited_lines
from modelmill.tasks.clean.config import Config
from modelmill.tasks.clean.diffs import diff_verdict
from modelmill.tasks.clean.distribution import Counts, counted, distribution_verdict, merged
from modelmill.tasks.clean.fineweb import fineweb_verdict
from modelmill.tasks.clean.gopher import gopher_verdict
from modelmill.tasks.clean.language import language_verdict, with_language
from modelmill.tasks.clean.lines import refinedweb_lines, without_repeated_lines
from modelmill.tasks.clean.personal.domains import dense_domain_verdict
from modelmill.tasks.clean.personal.redact import REDACTED, redact, redacted_counts
from modelmill.tasks.clean.repetition import repetition_verdict
from modelmill.tasks.clean.safety import SAFETY_SCORE, safety_verdict
from modelmill.tasks.clean.traits import LanguageTraits, traits
from modelmill.tasks.clean.urls import url_verdict
from modelmill.tasks.clean.verdict import Verdict
from modelmill.tasks.text.flat import characters, slices, string_array
from modelmill.tasks.text.words import words

_ROW = "__row__"


@dataclass(frozen=True)
class Cleaned:
    """What the rules made of a table. `dropped` has the column reason; `redacted` counts personal data by kind."""

    kept: pa.Table
    dropped: pa.Table

    @property
    def redacted(self) -> dict[str, int]:
        """How many of each kind of personal data were replaced in the kept rows."""
        return redacted_counts(self.kept)


def clean_rows(table: pa.Table, config: Config) -> tuple[pa.Table, pa.Table]:
    """Kept and dropped rows of a table with `text` and, if it has them, `url`.

    Kept rows keep all columns and their order, get language, language_score and safety_score, and their text is edited:
    lines removed, personal data replaced and counted by kind in `redacted`. Dropped rows keep their order too, their
    text as it came, and get `reason`.
    """
    cleaned = clean_table(table, config)
    return cleaned.kept, cleaned.dropped


def clean_table(
    table: pa.Table, config: Config, dense_domains: Path | None = None, word_counts: Counts | None = None
) -> Cleaned:
    """`clean_rows`, with counts of what was redacted. Pages of the domains in the file `dense_domains` are dropped.

    word_counts: words of the whole crawl by language, for its token distribution; those of the table where not given.
    """
    if config.token_distribution.enabled and word_counts is None:
        word_counts = merged(counted(with_language(piece)) for piece in slices(table, "text"))
    pieces = list(slices(table, "text")) or [table]
    parts = [_clean_slice(piece, config, dense_domains, word_counts or {}) for piece in pieces]
    text_type = table.schema.field("text").type
    kept = pa.concat_tables([part.kept for part in parts])
    dropped = pa.concat_tables([part.dropped for part in parts])
    return Cleaned(_with_text(kept, kept["text"], text_type), _with_text(dropped, dropped["text"], text_type))


def _clean_slice(table: pa.Table, config: Config, dense_domains: Path | None, word_counts: Counts) -> Cleaned:
    numbered = table.append_column(_ROW, pa.array(np.arange(table.num_rows)))
    table = with_language(_with_text(numbered, numbered["text"]))
    origin = Verdict(table.num_rows)
    if config.url.enabled and "url" in table.column_names:
        origin.include(url_verdict(table["url"], config.url))
    if dense_domains is not None and "url" in table.column_names:
        origin.include(dense_domain_verdict(table["url"], dense_domains))
    origin.include(language_verdict(table, config.languages, config.min_language_score))
    table, dropped_by_origin = origin.split(table)
    table, dropped_by_words = _judge_documents(table, config, word_counts)
    table, dropped_by_lines = _apply_line_rules(table, config)
    if config.personal_data.enabled:
        column, counts = redact(table["text"], config.personal_data)
        table = _with_text(table, column).append_column(REDACTED, counts)
    every = [dropped_by_origin, dropped_by_words, dropped_by_lines]
    dropped = pa.concat_tables(every, promote_options="default").sort_by(_ROW)
    return Cleaned(table.drop_columns(_ROW), dropped.drop_columns(_ROW))


def _judge_documents(table: pa.Table, config: Config, word_counts: Counts) -> tuple[pa.Table, pa.Table]:
    """The rules that look at a whole text as it came; with the safety rules on, both get `safety_score`."""
    texts = characters(table["text"])
    cut = words(texts)
    verdict = Verdict(len(texts))
    # Quality first: of a page of ten words, that it is short says more than that its one trigram fills a third of it.
    of_language = _traits(table)
    if config.gopher.enabled:
        verdict.include(gopher_verdict(texts, cut, of_language, config.gopher))
    if config.repetition.enabled:
        verdict = repetition_verdict(texts, cut, of_language, config.repetition, verdict)
    if config.diffs.enabled:
        verdict.include(diff_verdict(table["text"], config.diffs))
    if config.token_distribution.enabled:
        languages = table["language"].to_pylist()
        verdict.include(distribution_verdict(cut, languages, word_counts, config.token_distribution))
    if config.safety.enabled:
        by_safety, scores = safety_verdict(table["text"], cut.counts, config.safety)
        verdict.include(by_safety)
        table = table.append_column(SAFETY_SCORE, pa.array(scores))
    return verdict.split(table)


def _apply_line_rules(table: pa.Table, config: Config) -> tuple[pa.Table, pa.Table]:
    """Remove lines (repeated, RefinedWeb, C4), then judge what is left (C4, FineWeb)."""
    texts = characters(table["text"])
    of_language = _traits(table)
    flags = np.zeros(len(texts), np.uint8)
    verdict = Verdict(len(texts))
    if config.repeated_lines.enabled:
        texts = without_repeated_lines(texts, words(texts), config.repeated_lines)
    if config.refinedweb.enabled:
        texts, furniture = refinedweb_lines(texts, config.refinedweb)
        verdict.include(furniture)
    if config.c4.enabled:
        texts, flags = edited_lines(texts, of_language, config.c4)
    cut = words(texts)
    if config.c4.enabled:
        verdict.include(c4_verdict(texts, cut, flags, config.c4))
    if config.fineweb.enabled:
        verdict.include(fineweb_verdict(texts, cut, of_language, config.fineweb))
    _, dropped = verdict.split(table)
    edits = config.repeated_lines.enabled or config.refinedweb.enabled or config.c4.enabled
    edited = _with_text(table, string_array(texts)) if edits else table
    return verdict.split(edited)[0], dropped


def _traits(table: pa.Table) -> list[LanguageTraits]:
    return [traits(language) for language in table["language"].to_pylist()]


def _with_text(table: pa.Table, column: pa.ChunkedArray | pa.Array, text_type: pa.DataType | None = None) -> pa.Table:
    return table.set_column(table.column_names.index("text"), "text", column.cast(text_type or pa.large_string()))
