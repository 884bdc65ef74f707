"""A seed → documents made of Python's reference texts that lie about the thresholds of the published filters."""

import random
import re
from collections.abc import Callable
from pydoc_data.topics import topics

Sentences = list[str]
_FAULTY_LINES = (
    "Please enable Javascript to see the whole of this page.",
    "By going on you agree to our Terms of Use and more.",
    "This site uses cookies for its own work.",
    "Two words.",
    "This line of a list has no end",
    "This line trails off into nothing...",
    "x" * 1001 + " is a very long word.",
)
_FAULTY_WORDS = ("#", "...", "…", "2024", "3.14", "—", "(1)", "a", "I", "internationalization", "don't", "e.g.", "w/o")


def reference_texts() -> list[str]:
    """The topics of Python's language reference as they come: prose, tables and code, 1 to 100 kB each."""
    return [str(text) for _, text in sorted(topics.items())]


def texts_about_thresholds(number: int, seed: int = 0) -> list[str]:
    """Documents of plain sentences with one fault each, as often as the published rules begin to object, ± a half."""
    source = random.Random(seed)
    sentences = _sentences()
    makers = (_repeated_lines, _repeated_paragraphs, _repeated_phrases, _odd_words, _bullets, _trailing, _short_lines,
              _unended, _faulty_lines, _few_words, _few_sentences, _dropped_whole)  # fmt: skip
    return [makers[row % len(makers)](source, source.sample(sentences, source.randint(6, 40))) for row in range(number)]


def _sentences() -> Sentences:
    joined = " ".join(re.sub(r"\s+", " ", text) for text in reference_texts())
    found = re.findall(r"[A-Z][a-z][\w ,'’()-]{20,160}\.(?= )", joined)
    return sorted(set(found))


def _lines(source: random.Random, sentences: Sentences) -> Sentences:
    """Some sentences to a line."""
    lines: Sentences = []
    while sentences:
        size = source.randint(1, 3)
        lines.append(" ".join(sentences[:size]))
        sentences = sentences[size:]
    return lines


def _share(source: random.Random, threshold: float) -> float:
    return threshold * source.uniform(0.5, 1.5)


def _each(source: random.Random, sentences: Sentences, threshold: float, change: Callable[[str], str]) -> Sentences:
    share = _share(source, threshold)
    return [change(line) if source.random() < share else line for line in _lines(source, sentences)]


def _repeated_lines(source: random.Random, sentences: Sentences) -> str:
    lines = _lines(source, sentences)
    again = source.choices(lines, k=round(len(lines) * _share(source, source.choice((0.02, 0.25, 0.4)))))
    return "\n".join(lines + again)


def _repeated_paragraphs(source: random.Random, sentences: Sentences) -> str:
    lines = _lines(source, sentences)
    again = source.choices(lines, k=round(len(lines) * _share(source, source.choice((0.02, 0.25, 0.4)))))
    return "\n\n".join(lines + again)


def _repeated_phrases(source: random.Random, sentences: Sentences) -> str:
    words = " ".join(sentences).split()
    phrase = " ".join(source.choices(words, k=source.randint(2, 12)))
    times = max(2, round(_share(source, 0.15) * len(" ".join(words)) / len(phrase)))
    for _ in range(times):
        words.insert(source.randrange(len(words)), phrase)
    return " ".join(words)


def _odd_words(source: random.Random, sentences: Sentences) -> str:
    odd, share = source.choice(_FAULTY_WORDS), _share(source, source.choice((0.1, 0.2, 0.6)))
    words = " ".join(sentences).split()
    return " ".join(odd if source.random() < share else word for word in words)


def _bullets(source: random.Random, sentences: Sentences) -> str:
    mark = source.choice(("- ", "• ", "  - ", "* "))
    return "\n".join(_each(source, sentences, 0.9, lambda line: mark + line))


def _trailing(source: random.Random, sentences: Sentences) -> str:
    mark = source.choice(("...", "…", " ...", "..", "… "))
    return "\n".join(_each(source, sentences, 0.3, lambda line: line + mark))


def _short_lines(source: random.Random, sentences: Sentences) -> str:
    length = source.randint(26, 34)
    return "\n".join(_each(source, sentences, 0.67, lambda line: line[:length]))


def _unended(source: random.Random, sentences: Sentences) -> str:
    ending = source.choice(("", ",", '"', "!", "?", ":", ")", "。"))
    return "\n".join(_each(source, sentences, 0.88, lambda line: line[:-1] + ending))


def _faulty_lines(source: random.Random, sentences: Sentences) -> str:
    return "\n".join(_each(source, sentences, 0.5, lambda _: source.choice(_FAULTY_LINES)))


def _few_words(source: random.Random, sentences: Sentences) -> str:
    return " ".join(" ".join(sentences).split()[: source.randint(40, 60)])


def _few_sentences(source: random.Random, sentences: Sentences) -> str:
    marks = source.choice((". ", "! ", "?! ", '." ', ".) ", ".[1] "))
    return marks.join(sentence[:-1] for sentence in sentences[: source.randint(3, 7)]) + "."


def _dropped_whole(source: random.Random, sentences: Sentences) -> str:
    fault = source.choice(("Lorem Ipsum", "{", "}", "lorem  ipsum", "[edit]", "[citation needed]"))
    sentences[len(sentences) // 2] += f" Here is {fault} in it."
    return "\n".join(_lines(source, sentences))
