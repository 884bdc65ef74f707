"""Suite items and all training tokens → for each item, the share of its tokens that lies in a training n-gram.

The protocol of Llama 3 (section 5.1.4): an item is contaminated if more than a threshold of its tokens is part of an
8-gram that the training data holds. N-grams are compared by 64-bit hashes, so a corpus streams past once.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from modelmill.tasks.files import atomic_path
from modelmill.tasks.models.load import load_tokenizer
from modelmill.tasks.stage import Call, Pool
from modelmill.tasks.suites.reader import load_suite
from modelmill.tasks.tokenize.shards import TokenShards

# Tokens hashed at once: 8 MB of hashes, which stays near the processor's cache.
BLOCK = 1 << 20


def item_shares(suites: Sequence[str], tokens: Path, ngram: int, pool: Pool, workspace: Path) -> dict[str, list[float]]:
    """Per suite, each item's share of tokens that lies in an n-gram of the training split, in the suite's order."""
    if not suites:
        return {}
    tokenizer = load_tokenizer(tokens / "tokenizer")
    loaded = [load_suite(suite) for suite in suites]
    encoded = {
        suite.name: [tokenizer.encode(item.text, add_special_tokens=False) for item in suite.items] for suite in loaded
    }
    everything = [item for items in encoded.values() for item in items]
    found = training_ngrams(everything, tokens, ngram, pool, workspace)
    return {name: overlap_shares(items, found, ngram) for name, items in encoded.items()}


def overlap_shares(items: Sequence[Sequence[int] | np.ndarray], found: np.ndarray, ngram: int) -> list[float]:
    """Share of each item's tokens that lies in an n-gram whose hash is in the sorted array `found`."""
    shares = []
    for item in items:
        covered = np.zeros(len(item), bool)
        for start in np.flatnonzero(contains(found, ngram_hashes(np.asarray(item), ngram))):
            covered[start : start + ngram] = True
        shares.append(float(covered.mean()) if len(item) else 0.0)
    return shares


def training_ngrams(
    items: Sequence[Sequence[int]], tokens: Path, ngram: int, pool: Pool, workspace: Path
) -> np.ndarray:
    """Hashes of the items' n-grams that occur in the training split, sorted; one call for each domain."""
    wanted = np.unique(np.concatenate([ngram_hashes(np.asarray(item), ngram) for item in items]))
    path = workspace / "ngrams.npy"
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, wanted)
    calls = [
        Call(domain, {"tokens": tokens, "domain": domain, "wanted": path, "ngram": ngram})
        for domain in TokenShards(tokens, "train").domains
    ]
    hits = pool.map(ngrams_of_domain, calls, "contamination")
    return wanted[sorted({number for numbers in hits for number in numbers})]


def ngrams_of_domain(tokens: Path, domain: str, wanted: Path, ngram: int) -> list[int]:
    """Positions in the sorted array `wanted` of the hashes that the domain's training tokens hold."""
    hashes = np.load(wanted)
    shards = TokenShards(tokens, "train")
    total = shards.num_tokens(domain)
    seen = np.zeros(len(hashes), bool)
    for start in range(0, total, BLOCK):
        # Blocks overlap by n - 1 tokens, so that no n-gram falls between two.
        block = shards.window(domain, start, min(BLOCK + ngram - 1, total - start))
        candidates = ngram_hashes(block, ngram)
        candidates = candidates[contains(hashes, candidates)]
        seen[np.searchsorted(hashes, candidates)] = True
    return np.flatnonzero(seen).tolist()


def ngram_hashes(tokens: np.ndarray, ngram: int) -> np.ndarray:
    """uint64 hash of the n-gram that starts at each token: a sum of odd multiples modulo 2**64."""
    count = max(len(tokens) - ngram + 1, 0)
    hashes = np.zeros(count, np.uint64)
    for offset, factor in enumerate(hash_factors(ngram)):
        hashes += tokens[offset : offset + count].astype(np.uint64) * factor
    return hashes


def hash_factors(ngram: int) -> np.ndarray:
    """One odd 64-bit factor for each place in the n-gram, always the same."""
    return np.random.default_rng(20_240_731).integers(1, 1 << 63, ngram, dtype=np.uint64) * np.uint64(2) + np.uint64(1)


def contains(hashes: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """For each candidate, is it in the sorted array `hashes`?"""
    if not len(hashes):
        return np.zeros(len(candidates), bool)
    places = np.minimum(np.searchsorted(hashes, candidates), len(hashes) - 1)
    return hashes[places] == candidates
