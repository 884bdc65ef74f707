"""A recipe's rule and a table of documents → which rows it holds for; domain rules → each row's domain."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from modelmill.tasks.curate.config import OTHER, Rule
from modelmill.tasks.curate.words import prose_shares


def rule_mask(rule: Rule, documents: pa.Table, prose: np.ndarray) -> np.ndarray:
    """Bool [num_documents]; `prose` are the documents' prose shares."""
    mask = np.ones(len(documents), bool)
    if rule.urls:
        pattern = "|".join(f"(?:{pattern})" for pattern in rule.urls)
        mask &= _filled(pc.match_substring_regex(documents["url"], pattern))
    if rule.sources:
        mask &= _filled(pc.is_in(documents["source"], pa.array(rule.sources)))
    if rule.languages:
        mask &= _filled(pc.is_in(documents["language"], pa.array(rule.languages)))
    if rule.min_prose is not None:
        mask &= prose >= rule.min_prose
    if rule.max_prose is not None:
        mask &= prose <= rule.max_prose
    return mask


def domain_labels(domains: Mapping[str, Rule], documents: pa.Table, prose: np.ndarray) -> np.ndarray:
    """Name of the first domain whose rule holds, for each row; `other` where none does."""
    labels = np.full(len(documents), OTHER, dtype=object)
    free = np.ones(len(documents), bool)
    for name, rule in domains.items():
        taken = free & rule_mask(rule, documents, prose)
        labels[taken] = name
        free &= ~taken
    return labels


def quality_labels(positive: Rule, negative: Rule, documents: pa.Table, prose: np.ndarray) -> np.ndarray:
    """Teacher's verdict, int8: 1 shows what is wanted, 0 what is not, -1 neither."""
    labels = np.where(rule_mask(negative, documents, prose), 0, -1).astype(np.int8)
    labels[rule_mask(positive, documents, prose)] = 1
    return labels


def document_prose(documents: pa.Table) -> np.ndarray:
    """Prose share of every document of the table."""
    return prose_shares(documents["text"])


def _filled(mask: pa.ChunkedArray) -> np.ndarray:
    return pc.fill_null(mask, False).to_numpy().astype(bool)
