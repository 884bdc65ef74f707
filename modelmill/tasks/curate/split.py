"""Hashes and sizes of the kept documents by domain → which are held out for validation, and the domains' weights."""

from collections.abc import Mapping, Sequence

import numpy as np

from modelmill.tasks.curate.config import Mixture
from modelmill.tasks.errors import InputError

LARGEST = 2**64


def validation_border(smallest: Sequence[int], num_documents: int, share: float, min_documents: int) -> int:
    """Documents whose hash is below this border are held out.

    The border is `share` of the range of hashes, so a document keeps its side as the corpus grows; in a small domain it
    rises until `min_documents` (at most half of the domain) lie below. `smallest`: the smallest hashes of the domain.
    """
    wanted = min(min_documents, num_documents // 2)
    border = int(share * LARGEST)
    if wanted and sorted(smallest)[wanted - 1] >= border:
        border = sorted(smallest)[wanted - 1] + 1
    return border


def is_validation(hashes: np.ndarray, border: int) -> np.ndarray:
    """Bool for each uint64 hash."""
    return hashes < np.uint64(min(border, LARGEST - 1))


def mixture_weights(mixture: Mixture, num_bytes: Mapping[str, int]) -> dict[str, float]:
    """Share of each domain in training, sums to 1.

    Raises:
        InputError: the recipe gives weights, but none of them to a domain that has documents.
    """
    if mixture.weights:
        raw = {domain: mixture.weights.get(domain, 0.0) for domain in num_bytes}
    else:
        raw = {domain: size ** (1 / mixture.temperature) for domain, size in num_bytes.items()}
    total = sum(raw.values())
    if total <= 0:
        raise InputError(
            f"mixture.weights gives no weight to any domain that has documents ({', '.join(sorted(num_bytes))}); "
            "weigh one of them, or leave the weights out"
        )
    return {domain: weight / total for domain, weight in sorted(raw.items())}
