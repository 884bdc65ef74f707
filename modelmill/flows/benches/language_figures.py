"""spaCy's example sentences, or texts of two languages → how word lengths and limits on n-grams relate to English's.

`python -m modelmill.flows.benches.language_figures` tells the mean word length of each language that spaCy has examples
of. With two lists of .jsonl or .jsonl.gz files (column `text`), separated by commas, it tells for each n-gram the limit
that as large a share of the second language's texts exceeds as of the first one's the published limit.
"""

import gzip
import importlib
import json
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from modelmill.tasks.clean.config import GopherRepetition
from modelmill.tasks.clean.gopher import _word_statistics
from modelmill.tasks.clean.repetition import _duplicate_ngram_characters, _top_ngram_characters
from modelmill.tasks.clean.verdict import ratio
from modelmill.tasks.text.characters import classes
from modelmill.tasks.text.flat import characters
from modelmill.tasks.text.words import words

MIN_SENTENCES = 5
MIN_WORDS = 50  # Gopher drops shorter texts before it looks at repetition.
MAX_TEXTS = 500  # of each file

Shares = dict[int, np.ndarray]


def word_lengths() -> dict[str, tuple[float, int]]:
    """Language → mean word length of spaCy's examples in characters, and the number of words."""
    import spacy.lang

    found = {}
    for module in pkgutil.iter_modules(spacy.lang.__path__):
        try:
            sentences = importlib.import_module(f"spacy.lang.{module.name}.examples").sentences
        except (ImportError, AttributeError):
            continue
        if len(sentences) >= MIN_SENTENCES:
            flat = characters(pa.array([" ".join(sentences)], pa.large_string()))
            cut = words(flat)
            content, length, _ = _word_statistics(flat.codes, cut.starts, cut.ends, cut.offsets, classes())
            found[module.name] = (float(length[0] / content[0]), int(content[0]))
    return found


def ngram_shares(texts: Sequence[str]) -> Shares:
    """Words → each text's share of characters in the most frequent (2 to 4) or in duplicate (5 to 10) n-grams."""
    flat = characters(pa.array(texts, pa.large_string()))
    cut = words(flat)
    judged = cut.counts >= MIN_WORDS
    shares = {}
    for size in (2, 3, 4):
        covered = _top_ngram_characters(cut.starts, cut.ends, cut.hashes, cut.offsets, size, judged)
        shares[size] = ratio(covered, flat.lengths)[judged]
    sizes = np.arange(5, 11)
    parts = _duplicate_ngram_characters(flat.codes, cut.starts, cut.ends, cut.offsets, sizes, judged)
    return shares | {int(size): ratio(part, flat.lengths)[judged] for size, part in zip(sizes, parts, strict=True)}


def matched_limits(english: Sequence[Shares], other: Sequence[Shares]) -> dict[int, tuple[float, float, float]]:
    """Words → share of the English texts over the published limit, of the others', and the limit where they are equal.

    Every file counts alike, whatever its number of texts.
    """
    config = GopherRepetition()
    found = {}
    for size, limit in (config.max_top_ngram_characters | config.max_duplicate_ngram_characters).items():
        wanted, here = _over(english, size, limit), _over(other, size, limit)
        borders = np.unique(np.concatenate([shares[size] for shares in other]))
        rates = np.array([_over(other, size, border) for border in borders])
        found[size] = (wanted, here, float(borders[np.argmax(rates <= wanted)]))
    return found


def _over(files: Sequence[Shares], size: int, limit: float) -> float:
    return float(np.mean([np.mean(shares[size] > limit) for shares in files]))


def _texts(path: Path) -> list[str]:
    content = path.read_bytes()
    lines = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8").split("\n")
    return [json.loads(line)["text"] for line in lines if line.strip()][:MAX_TEXTS]


def main(arguments: Sequence[str]) -> None:
    """Print the figures."""
    if arguments:
        english, other = ([ngram_shares(_texts(Path(path))) for path in each.split(",")] for each in arguments)
        for size, (wanted, here, limit) in matched_limits(english, other).items():
            sys.stdout.write(f"{size}-grams: over the limit {wanted:.2%} and {here:.2%}; equal at {limit:.3f}\n")
        return
    found = word_lengths()
    for language, (length, number) in sorted(found.items(), key=lambda each: -each[1][0]):
        times = length / found["en"][0]
        sys.stdout.write(f"{language}: {length:.2f} characters, {times:.2f} times English's, {number} words\n")


if __name__ == "__main__":
    main(sys.argv[1:])
