"""Pages → counts of words by language over the whole crawl, and pages whose words are far from it (Llama 3 §3.1.1).

Words are counted in a fixed number of buckets by hash, so that memory does not grow with the crawl: 1 MB a language.
The divergence is KL(page ‖ crawl) in nats, of the page's unigrams from those of all pages in its language. It falls
with a page's length by nature: of 50 words that occur once each, none can be as common in the page as in the crawl.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from modelmill.tasks.clean.config import TokenDistribution
from modelmill.tasks.clean.language import with_language
from modelmill.tasks.clean.verdict import Verdict
from modelmill.tasks.files import atomic_path
from modelmill.tasks.text.flat import characters, slices
from modelmill.tasks.text.shards import read_shard
from modelmill.tasks.text.words import Words, words

BUCKETS = 1 << 17
UNSEEN = 0.01  # share of words that a page may have and the crawl has not
Counts = dict[str, NDArray[np.int64]]


def count_shard(source: Path | str, target: Path | str) -> int:
    """Count the words of one shard of pages by language → an .npz of BUCKETS counts each; returns their sum."""
    table = read_shard(Path(source), ["text"])
    counts = merged(counted(with_language(piece)) for piece in slices(table, "text"))
    write_counts(counts, Path(target))
    return int(sum(part.sum() for part in counts.values()))


def counted(table: pa.Table) -> Counts:
    """The words of a table with `text` and `language`, by language and bucket."""
    cut = words(characters(table["text"]))
    buckets = _buckets(cut)
    languages = np.array(table["language"].to_pylist(), str)
    found: Counts = {}
    for language in sorted(set(languages.tolist())):
        of_language = np.repeat(languages == language, cut.counts)
        found[language] = np.bincount(buckets[of_language], minlength=BUCKETS)
    return found


def merged(parts: Iterable[Mapping[str, NDArray[np.int64]]]) -> Counts:
    """Sum of several counts."""
    total: Counts = {}
    for part in parts:
        for language, counts in part.items():
            total[language] = total[language] + counts if language in total else counts
    return dict(sorted(total.items()))


def write_counts(counts: Counts, path: Path) -> None:
    """Write counts whole or not at all."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **counts)


def read_counts(path: Path | str) -> Counts:
    """Counts that `write_counts` wrote."""
    with np.load(path) as file:
        return {language: file[language] for language in file.files}


def divergences(cut: Words, languages: Sequence[str], counts: Counts) -> NDArray[np.float64]:
    """KL(page ‖ crawl) of each page in nats; 0 for pages without words or in a language that was not counted."""
    known = sorted(set(languages) & counts.keys())
    if not known:
        return np.zeros(len(languages))
    log_shares = np.log(np.stack([_shares(counts[name]) for name in known]))
    rows = np.array([known.index(language) if language in counts else -1 for language in languages], np.int64)
    return _divergences(_buckets(cut), cut.offsets, rows, log_shares)


def distribution_verdict(cut: Words, languages: Sequence[str], counts: Counts, config: TokenDistribution) -> Verdict:
    """Judge pages by how far their words are from those of the crawl in their language."""
    verdict = Verdict(len(languages))
    verdict.drop(divergences(cut, languages, counts) > config.max_divergence, "token_distribution")
    return verdict


def _shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Share of each bucket in a language; a little goes to all alike, for words that were not counted."""
    return (1 - UNSEEN) * counts / max(1, counts.sum()) + UNSEEN / BUCKETS


def _buckets(cut: Words) -> NDArray[np.int64]:
    return (cut.hashes & np.uint64(BUCKETS - 1)).astype(np.int64)


@njit(cache=True, nogil=True)
def _divergences(buckets, offsets, languages, log_shares):
    result = np.zeros(len(languages))
    seen = np.zeros(log_shares.shape[1], np.int64)
    for row in range(len(languages)):
        first, last = offsets[row], offsets[row + 1]
        if languages[row] < 0 or first == last:
            continue
        for word in range(first, last):
            seen[buckets[word]] += 1
        for word in range(first, last):
            bucket = buckets[word]
            if seen[bucket]:
                share = seen[bucket] / (last - first)
                result[row] += share * (np.log(share) - log_shares[languages[row], bucket])
                seen[bucket] = 0
    return result
