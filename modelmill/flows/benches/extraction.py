"""Pages, labelled or not → each extractor's pages/s and, with labels, its word F1 and the snippets kept and leaked."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from modelmill.flows.benches.measured import Measured, cpu_seconds
from modelmill.tasks.errors import InputError
from modelmill.tasks.ingest.decode import RejectedError, decoded_text
from modelmill.tasks.ingest.extractor import EXTRACTORS, tidy
from modelmill.tasks.ingest.main_text.labels import has_snippet
from modelmill.tasks.text.row_files import read_rows

STEP = "main text"
LABELS = ("main_content", "page_type", "must_have", "must_not")
_TIMED_PAGES = 100  # evenly over the table; quality is of all pages
_WORD = re.compile(r"\w+")


def measure(pages: Path) -> list[Measured]:
    """Every extractor of ingest on a table with the column html (bytes or text).

    With the columns of WCXB too (main_content and page_type: text; must_have, must_not: lists of snippets), `quality`
    has the word F1, over all pages and by page type, and the shares of the snippets that are in the text.

    Raises:
        InputError: no such table, no column html, or no pages.
    """
    rows = [row for table in read_rows(pages, ("html",)) for row in table.to_pylist()]
    if not rows:
        raise InputError(f"{pages} holds no pages")
    sources = [_source(row["html"]) for row in rows]
    return [_measured(name, sources, rows) for name in EXTRACTORS]


def _source(html: bytes | str | None) -> str:
    """Nothing of a page that ingest would refuse to decode."""
    try:
        return decoded_text(html, None) if isinstance(html, bytes) else html or ""
    except RejectedError:
        return ""


def _measured(name: str, sources: Sequence[str], rows: Sequence[dict[str, Any]]) -> Measured:
    timed = sources[:: -(-len(sources) // _TIMED_PAGES)]
    seconds = cpu_seconds(lambda: [_text(name, source) for source in timed])
    quality = {"html_megabytes_per_second": sum(len(source.encode()) for source in timed) / 1e6 / seconds}
    if all(column in rows[0] for column in LABELS):
        quality = scores([_text(name, source) for source in sources], rows) | quality
    return Measured(STEP, name, len(timed) / seconds, "pages/s", quality)


def _text(name: str, source: str) -> str:
    return tidy(EXTRACTORS[name](source)["text"])


def scores(texts: Sequence[str], rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Word F1 (mean over pages), the same by page type, and shares of all snippets that are in their page's text."""
    found = [word_f1(text, row["main_content"]) for text, row in zip(texts, rows, strict=True)]
    types = sorted({row["page_type"] for row in rows})
    by_type = {
        f"word_f1_{kind}": fmean(score for score, row in zip(found, rows, strict=True) if row["page_type"] == kind)
        for kind in types
    }
    return {
        "word_f1": fmean(found),
        "snippets_kept": _share_inside(texts, [row["must_have"] for row in rows]),
        "snippets_leaked": _share_inside(texts, [row["must_not"] for row in rows]),
        **by_type,
    }


def word_f1(text: str, truth: str) -> float:
    r"""F1 of the multisets of lower-cased words (`\w+`); 1 where neither text has any."""
    found, expected = (Counter(_WORD.findall(each.lower())) for each in (text, truth))
    total = found.total() + expected.total()
    return 2 * (found & expected).total() / total if total else 1.0


def _share_inside(texts: Sequence[str], snippets: Sequence[Sequence[str]]) -> float:
    """Words only: extractors differ in where they break lines, labels in their quotation marks and hyphens."""
    inside = [
        has_snippet(text, snippet)
        for text, page_snippets in zip(texts, snippets, strict=True)
        for snippet in page_snippets
    ]
    return fmean(inside) if inside else 0.0
