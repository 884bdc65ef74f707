"""One part of the documents → its survey, its scores, its selection, its kept and dropped rows: what fans out.

Four passes. Survey and scores know no threshold and are kept, so that other thresholds cost the last two only. Scoring
needs a fact about the whole corpus, the student (from all surveys); so does writing, the border between the splits in
each domain (from all selections).
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
from modelmill.tasks.curate.decontaminate import found_grams, held_items, suite_index, suite_overlaps
from modelmill.tasks.curate.quality import quality_scores
from modelmill.tasks.curate.rules import document_prose, domain_labels, quality_labels
from modelmill.tasks.curate.split import is_validation
from modelmill.tasks.curate.words import string_hashes
from modelmill.tasks.files import atomic_path

LOW_QUALITY = "low_quality"
CONTAMINATED = "contaminated:"
NUM_EXAMPLES = 5


def survey_part(documents: str, output: str, config: Config) -> dict[str, Any]:
    """Write each row's label by rule, prose share, domain and hashes; which 8-grams of which suite it holds; and what
    share of which items these cover.

    Returns the distinct 8-grams found, by suite.
    """
    table = pq.read_table(documents)
    prose = document_prose(table)
    labels = np.full(len(table), -1, np.int8)
    if config.quality is not None and config.quality.positive is not None:
        labels = quality_labels(config.quality.positive, config.quality.negative, table, prose)
    survey = {
        "hash": string_hashes(table["id"], 2 * config.seed),
        "split_hash": string_hashes(table["id"], 2 * config.seed + 1),
        "label": labels,
        "prose": prose.astype(np.float32),
        "domain": pa.array(domain_labels(config.domains, table, prose), pa.string()),
    }
    _write(pa.table(survey), Path(output))
    hits, overlaps, found = [], [], {}
    for number, wanted in enumerate(config.suites):
        index = suite_index(wanted)
        rows, grams = found_grams(table["text"], index)
        hits.append(pa.table({"row": rows, "gram": grams, "suite": np.full(len(rows), number, np.int64)}))
        overlaps.append(suite_overlaps(rows, grams, index, number))
        found[index.suite.name] = np.unique(grams).tolist()
    if hits:
        _write(pa.concat_tables(hits), hits_path(output))
        _write(pa.concat_tables(overlaps), overlaps_path(output))
    return {"grams": found}


def score_part(documents: str, model: str | None, output: str) -> None:
    """Write each row's quality: 1 without a student."""
    texts = pq.read_table(documents, columns=["text"])["text"]
    quality = np.ones(len(texts), np.float32) if model is None else quality_scores(texts, Path(model))
    _write(pa.table({"quality": quality}), Path(output))


def select_part(documents: str, survey: str, scores: str, output: str, config: Config) -> dict[str, Any]:
    """Apply the thresholds: write each row's quality and reason to drop (null: kept), with the suite's item that it
    holds and the share of it (`overlap`), if any.

    Returns by domain the documents, bytes and smallest split hashes of what is kept.
    """
    surveyed, scored = pq.read_table(survey), pq.read_table(scores)
    texts = pq.read_table(documents, columns=["text"])["text"]
    held = pa.table({"suite": pa.nulls(len(texts), pa.string())})
    if config.suites:
        held = held_items(pq.read_table(overlaps_path(survey)), config.suites, len(texts))
        scored = scored.append_column("item", held["item"]).append_column("overlap", held["overlap"])
    reason = pc.binary_join_element_wise(CONTAMINATED, held["suite"], "")
    if config.quality is not None:
        low = pc.less(scored["quality"], pa.scalar(config.quality.threshold, pa.float32()))
        reason = pc.coalesce(reason, pc.if_else(low, LOW_QUALITY, pa.scalar(None, pa.string())))
    _write(scored.append_column("reason", reason), Path(output))
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
    """Write the kept rows with quality, prose, domain and split, and the dropped ones with their reason and, if that is
    a suite, its item and overlap.

    Returns documents kept by split, dropped by reason, the suites' 8-grams that are still in what is kept, and some of
    the documents that each suite removed.
    """
    table, surveyed, scored = pq.read_table(documents), pq.read_table(survey), pq.read_table(scores)
    table = table.append_column("quality", scored["quality"]).append_column("prose", surveyed["prose"])
    table = table.append_column("domain", surveyed["domain"])
    split = np.full(len(table), "train", object)
    for domain, border in borders.items():
        inside = pc.equal(surveyed["domain"], domain).to_numpy()
        split[inside & is_validation(surveyed["split_hash"].to_numpy(), border)] = "validation"
    keep = pc.is_null(scored["reason"])
    rows = table.append_column("split", pa.array(split, pa.string())).filter(keep)
    _write(rows, Path(kept))
    for name in scored.drop_columns("quality").column_names:
        table = table.append_column(name, scored[name])
    gone = table.filter(pc.invert(keep))
    _write(gone, Path(dropped))
    return {
        "splits": _counts(rows["split"]),
        "dropped": _counts(gone["reason"]),
        "grams": _kept_grams(survey, keep.to_numpy(), config),
        "examples": _examples(gone) if config.suites else {},
    }


def hits_path(survey: str) -> Path:
    """Where a survey puts the 8-grams it met."""
    return Path(survey).with_suffix(".hits.parquet")


def overlaps_path(survey: str) -> Path:
    """Where a survey puts which share of which items the documents hold."""
    return Path(survey).with_suffix(".overlaps.parquet")


def _examples(gone: pa.Table) -> dict[str, list[dict[str, Any]]]:
    """The first few documents that were dropped for each suite's sake, by reason."""
    examples: dict[str, list[dict[str, Any]]] = {}
    contaminated = gone.filter(pc.starts_with(gone["reason"], CONTAMINATED))
    for row in contaminated.select(["reason", "id", "url", "item", "overlap"]).to_pylist():
        listed = examples.setdefault(row.pop("reason"), [])
        if len(listed) < NUM_EXAMPLES:
            listed.append(row | {"overlap": round(row["overlap"], 4)})
    return examples


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
