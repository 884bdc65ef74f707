"""HTML as UTF-8 on standard input → JSON {title, text, page_type} on standard output, as a companion of `extract`."""

import argparse
import json
import re
import unicodedata
from collections.abc import Callable
from dataclasses import asdict

from modelmill.tasks.ingest.companion import serve

_MAX_TITLE = 300
_NEWLINES = re.compile(r"\r\n?|[\u2028\u2029\x0b\x0c]")
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f\ufeff\ufffe\uffff]")
_LINE_ENDS = re.compile(r"[ \t]+\n")
_TABS = re.compile(r"(?m)^[ ]{0,6}\t+[ ]?|[ ]*\t+[ ]*")
_BLANK_LINES = re.compile(r"\n{3,}")
# No text of the page even where an element holds them: scripts are dropped by the parser already.
_SKIPPED = ("button", "svg", "template", "dialog")


def tidy(text: str) -> str:
    """One kind of newline and space, no control characters, no spaces at line ends, at most one empty line.

    Indentation stays: it carries meaning in code.
    """
    text = _CONTROLS.sub("", _NEWLINES.sub("\n", text)).replace("\u00a0", " ")
    text = _TABS.sub(lambda match: "" if match.start() == 0 or text[match.start() - 1] == "\n" else " ", text)
    return _BLANK_LINES.sub("\n\n", _LINE_ENDS.sub("\n", text + "\n")).strip("\n")


def modelmill_extraction(html: str) -> dict[str, str]:
    """Title, main text and type of page by the model of blocks that comes with Modelmill."""
    from modelmill.tasks.ingest.main_text.extract import main_text
    from modelmill.tasks.ingest.main_text.model import shipped_model

    return asdict(main_text(html.encode("utf-8", errors="replace"), shipped_model()))


def union_extraction(html: str) -> dict[str, str]:
    """Like `modelmill_extraction`, with the blocks that one of the other extractors keeps besides."""
    from modelmill.tasks.ingest.main_text.extract import main_text
    from modelmill.tasks.ingest.main_text.model import shipped_model

    others = tuple(extraction(html)["text"] for extraction in (resiliparse_extraction, trafilatura_extraction))
    return asdict(main_text(html.encode("utf-8", errors="replace"), shipped_model(), others))


def resiliparse_extraction(html: str) -> dict[str, str]:
    """Title and main text by resiliparse: fast, keeps lines of code and the cells of tables."""
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLTree

    tree = HTMLTree.parse(html)
    text = extract_plain_text(
        tree,
        preserve_formatting=True,
        main_content=True,
        list_bullets=False,  # bullets, like other marks of markdown, hurt a model of mostly web text (Llama 3, 3.1.1)
        alt_texts=True,  # rendered formulas keep their source there (same place)
        comments=False,
        skip_elements=_SKIPPED,
    )
    return {"title": tree.title or "", "text": text}


def trafilatura_extraction(html: str) -> dict[str, str]:
    """Title and main text by trafilatura, leaning neither to precision nor to recall."""
    import trafilatura

    document = trafilatura.bare_extraction(html, include_comments=False, with_metadata=True)
    if document is None or isinstance(document, dict):
        return {"title": "", "text": ""}
    return {"title": document.title or "", "text": document.text or ""}


EXTRACTORS: dict[str, Callable[[str], dict[str, str]]] = {
    "modelmill": modelmill_extraction,
    "union": union_extraction,
    "resiliparse": resiliparse_extraction,
    "trafilatura": trafilatura_extraction,
}


def extracted(html: bytes, extractor: str) -> bytes:
    """One page's answer. Surrogates, which no UTF-8 file can hold, are replaced."""
    found = EXTRACTORS[extractor](html.decode("utf-8", errors="replace"))
    title = " ".join(tidy(found["title"]).split())[:_MAX_TITLE]
    text = unicodedata.normalize("NFC", tidy(found["text"]))
    answer = {"title": title, "text": text, "page_type": found.get("page_type", "")}
    return json.dumps(answer, ensure_ascii=False).encode("utf-8", errors="replace")


def main() -> None:
    """Answer until the parent closes the pipe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("extractor", choices=sorted(EXTRACTORS))
    parser.add_argument("seconds", type=float)
    parser.add_argument("megabytes", type=int)
    arguments = parser.parse_args()
    # Kernels are compiled in a fresh installation, libraries and weights loaded in any: no page's time.
    extracted(b"<title>first</title><p>A page before the first.</p>", arguments.extractor)
    serve(lambda html: extracted(html, arguments.extractor), arguments.seconds, arguments.megabytes)


if __name__ == "__main__":
    main()
