"""One part of the documents → its survey, then its scores, then its kept and dropped rows: the functions that fan out.

Three passes, because each needs a fact about the whole corpus: the student (from all surveys), and the border between
the splits in each domain (from all scores).
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from modelmill.tasks.curate.config import Config
from modelmill.tasks.curate.decontaminate import found_grams, item_coverage, suite_index
from modelmill.tasks.curate.quality import quality_scores
from modelmill.tasks.curate.rules import document_prose, domain_labels, quality_labels
from modelmill.tasks.curate.split import is_validation
from modelmill.tasks.curate.words import string_hashes
from modelmill.tasks.files import atomic_path

LOW_QUALITY = "low_quality"
CONTAMINATED = "contaminated:"


def survey_part(documents: str, output: str, config: Config) -> dict[str, Any]:
    """Write each row's teacher label, domain, contaminating suite and hash, and which 8-grams of which suite it holds.

    Returns the distinct 8-grams found, by suite.
    """
    table = pq.read_table(documents)
    prose = document_prose(table)
    labels = np.full(len(table), -1, np.int8)
    if config.quality is not None:
        labels = quality_labels(config.quality.positive, config.quality.negative, table, prose)
    suites, hits, found = np.full(len(table), None, object), [], {}
    for number, wanted in reversed(list(enumerate(config.suites))):
        index = suite_index(wanted)
        rows, grams = found_grams(table["text"], index)
        row, _, share = item_coverage(rows, grams, index)
        suites[row[share >= index.ratio]] = index.suite.name
        hits.append(pa.table({"row": rows, "gram": grams, "suite": np.full(len(rows), number, np.int64)}))
        found[index.suite.name] = np.unique(grams).tolist()
    survey = {
        "hash": string_hashes(table["id"], 2 * config.seed),
        "split_hash": string_hashes(table["id"], 2 * config.seed + 1),
        "label": labels,
        "domain": pa.array(domain_labels(config.domains, table, prose), pa.string()),
        "suite": pa.array(suites, pa.string()),
    }
    _write(pa.table(survey), Path(output))
    if hits:
        _write(pa.concat_tables(hits), hits_path(output))
    return {"grams": found}


def score_part(documents: str, survey: str, model: str | None, output: str, config: Config) -> dict[str, Any]:
    """Write each row's quality and reason to drop (null: kept).

    Returns by domain the documents, bytes and smallest split hashes of what is kept.
    """
    surveyed = pq.read_table(survey)
    texts = pq.read_table(documents, columns=["text"])["text"]
    quality = np.ones(len(surveyed), np.float32)
    reason = pc.binary_join_element_wise(CONTAMINATED, surveyed["suite"], "")
    if config.quality is not None and model is not None:
        quality = quality_scores(texts, Path(model))
        low = pc.if_else(pa.array(quality < config.quality.threshold), LOW_QUALITY, pa.scalar(None, pa.string()))
        reason = pc.coalesce(reason, low)
    _write(pa.table({"quality": quality, "reason": reason}), Path(output))
    return {"kept": kept_counts(texts, surveyed, reason, config.min_validation_documents)}


def kept_counts(
    texts: pa.ChunkedArray, surveyed: pa.Table, reason: pa.ChunkedArray, num_smallest: int
) -> dict[str, dict[str, Any]]:
    """By domain the documents, bytes and smallest split hashes of the rows that have no reason to go."""
    columns = {"bytes": pc.binary_length(texts), "domain": surveyed["domain"], "hash": surveyed["split_hash"]}
    return _domain_counts(pa.table(columns).filter(pc.is_null(reason)), num_smallest)


def write_part(
    documents: str, survey: str, scores: str, kept: str, dropped: str, borders: dict[str, int], config: Config
) -> dict[str, Any]:
    """Write the kept rows with quality, domain and split, and the dropped ones with their reason.

    Returns documents kept by split, dropped by reason, and the suites' 8-grams that are still in what is kept.
    """
    table, surveyed, scored = pq.read_table(documents), pq.read_table(survey), pq.read_table(scores)
    table = table.append_column("quality", scored["quality"]).append_column("domain", surveyed["domain"])
    split = np.full(len(table), "train", object)
    for domain, border in borders.items():
        inside = pc.equal(surveyed["domain"], domain).to_numpy()
        split[inside & is_validation(surveyed["split_hash"].to_numpy(), border)] = "validation"
    keep = pc.is_null(scored["reason"])
    rows = table.append_column("split", pa.array(split, pa.string())).filter(keep)
    _write(rows, Path(kept))
    table = table.append_column("reason", scored["reason"])
    if "survivor" in scored.column_names:
        table = table.append_column("survivor", scored["survivor"])
    _write(table.filter(pc.invert(keep)), Path(dropped))
    return {
        "splits": _counts(rows["split"]),
        "dropped": _counts(scored["reason"].filter(pc.invert(keep))),
        "grams": _kept_grams(survey, keep.to_numpy(), config),
    }


def hits_path(survey: str) -> Path:
    """Where a survey puts the 8-grams it met."""
    return Path(survey).with_suffix(".hits.parquet")


def _domain_counts(rows: pa.Table, num_smallest: int) -> dict[str, dict[str, Any]]:
    counts = {}
    for domain in sorted(rows["domain"].unique().to_pylist()):
        inside = rows.filter(pc.equal(rows["domain"], domain))
        smallest = np.sort(inside["hash"].to_numpy())[:num_smallest].tolist()
        counts[domain] = {"documents": len(inside), "bytes": pc.sum(inside["bytes"]).as_py(), "smallest": smallest}
    return counts


def _kept_grams(survey: str, keep: np.ndarray, config: Config) -> list[list[int]]:
    if not config.suites:
        return []
    hits = pq.read_table(hits_path(survey))
    hits = hits.filter(pa.array(keep[hits["row"].to_numpy()]))
    suite, gram = hits["suite"].to_numpy(), hits["gram"].to_numpy()
    return [np.unique(gram[suite == number]).tolist() for number in range(len(config.suites))]


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    counts = column.value_counts().to_pylist()
    return {each["values"]: each["counts"] for each in sorted(counts, key=lambda each: each["values"])}


def _write(table: pa.Table, path: Path) -> None:
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
