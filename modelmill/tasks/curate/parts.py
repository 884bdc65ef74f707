"""One part of the documents → its survey, its scores, its selection, its kept and dropped rows: what fans out.

Four passes, with `semantic` and `balance` between the last two. Survey and scores know no threshold and are kept, so
that other thresholds cost only what follows. Scoring needs a fact about the whole corpus, the students (from all
surveys); so does writing, the border between the splits in each domain (from all selections).
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from modelmill.tasks.curate.categories import category_columns
from modelmill.tasks.curate.config import Config
from modelmill.tasks.curate.decontaminate import found_grams, held_items, suite_index, suite_overlaps
from modelmill.tasks.curate.exact import exact_index, exact_matches
from modelmill.tasks.curate.features import hashed_features
from modelmill.tasks.curate.quality import quality_scores
from modelmill.tasks.curate.rules import document_prose, domain_labels, quality_labels
from modelmill.tasks.curate.split import is_validation
from modelmill.tasks.curate.words import string_hashes
from modelmill.tasks.files import atomic_path

LOW_QUALITY = "low_quality"
CONTAMINATED = "contaminated:"
PAGE_TYPE = "page_type_"
NUM_EXAMPLES = 5
# Columns that every document keeps, and what a document that holds a suite's item is dropped with.
SCORES = ("quality", "topic", "category", "category_score")
EVIDENCE = ("item", "overlap", "match")


def survey_part(documents: str, output: str, config: Config) -> dict[str, Any]:
    """Write each row's label by rule, prose share, domain and hashes; which 8-grams of which suite it holds; and what
    share of which items these cover.

    Returns the distinct 8-grams found, and the items found word by word, by suite.
    """
    table = pq.read_table(documents)
    prose = document_prose(table)
    labels = np.full(len(table), -1, np.int8)
    if config.quality is not None and config.quality.positive is not None:
        labels = quality_labels(config.quality.positive, config.quality.negative, table, prose)
    survey = {
        "hash": string_hashes(table["id"], 2 * config.seed),
        "split_hash": string_hashes(table["id"], 2 * config.seed + 1),
        "keep_hash": string_hashes(table["id"], (1 << 32) + config.seed),
        "bytes": pc.cast(pc.binary_length(table["text"]), pa.int64()),
        "page_type": _page_types(table),
        "label": labels,
        "prose": prose.astype(np.float32),
        "domain": pa.array(domain_labels(config.domains, table, prose), pa.string()),
    }
    write_table(pa.table(survey), Path(output))
    hits, overlaps, found, exact = [], [], {}, {}
    for number, wanted in enumerate(config.suites):
        index = suite_index(wanted.suite, wanted.ratio)
        rows, grams = found_grams(table["text"], index)
        equal = exact_matches(table["text"], exact_index(index.suite))
        hits.append(pa.table({"row": rows, "gram": grams, "suite": np.full(len(rows), number, np.int64)}))
        overlaps.append(suite_overlaps(rows, grams, equal, index, number))
        found[index.suite.name] = np.unique(grams).tolist()
        exact[index.suite.name] = [index.suite.items[item].id for item in np.unique(equal[1])]
    if hits:
        write_table(pa.concat_tables(hits), hits_path(output))
        write_table(pa.concat_tables(overlaps), overlaps_path(output))
    return {"grams": found, "exact": exact}


def score_part(documents: str, quality: str | None, categories: str | None, output: str) -> None:
    """Write each row's quality (1 without a student) and, with such a student, its topic, category and score."""
    texts = pq.read_table(documents, columns=["text"])["text"]
    score = np.ones(len(texts), np.float32)
    if quality is not None:
        score = quality_scores(hashed_features(texts), Path(quality))
    table = pa.table({"quality": score})
    if categories is not None:
        named = category_columns(texts, Path(categories))
        for name in named.column_names:
            table = table.append_column(name, named[name])
    write_table(table, Path(output))


def select_part(survey: str, scores: str, output: str, config: Config) -> dict[str, Any]:
    """Apply the thresholds: write each row's scores and reason to drop (null: kept), with the suite's item that it
    holds, the share of it (`overlap`) and how it was found (`match`), if any.

    Returns by domain the documents, bytes and smallest split hashes of what is kept.
    """
    surveyed, scored = pq.read_table(survey), pq.read_table(scores)
    held = pa.table({"suite": pa.nulls(len(surveyed), pa.string())})
    if config.suites:
        suites = [(each.suite, each.ratio) for each in config.suites]
        held = held_items(pq.read_table(overlaps_path(survey)), suites, len(surveyed))
        for name in EVIDENCE:
            scored = scored.append_column(name, held[name])
    reason = pc.binary_join_element_wise(CONTAMINATED, held["suite"], "")
    if config.page_types:
        type = surveyed["page_type"]
        unwanted = pc.invert(pc.is_in(type, pa.array(["", *config.page_types])))
        of_type = pc.binary_join_element_wise(PAGE_TYPE, type, "")
        reason = pc.coalesce(reason, pc.if_else(unwanted, of_type, pa.scalar(None, pa.string())))
    if config.quality is not None:
        low = pc.less(scored["quality"], pa.scalar(config.quality.threshold, pa.float32()))
        reason = pc.coalesce(reason, pc.if_else(low, LOW_QUALITY, pa.scalar(None, pa.string())))
    write_table(scored.append_column("reason", reason), Path(output))
    typed = pc.sum(pc.not_equal(surveyed["page_type"], "")).as_py() or 0
    return {"kept": kept_counts(surveyed, reason, config.min_validation_documents), "typed": typed}


def kept_counts(surveyed: pa.Table, reason: pa.ChunkedArray, num_smallest: int) -> dict[str, dict[str, Any]]:
    """By domain the documents, bytes and smallest split hashes of the rows that have no reason to go."""
    columns = {"bytes": surveyed["bytes"], "domain": surveyed["domain"], "hash": surveyed["split_hash"]}
    return _domain_counts(pa.table(columns).filter(pc.is_null(reason)), num_smallest)


def write_part(
    documents: str, survey: str, scores: str, kept: str, dropped: str, borders: dict[str, int], config: Config
) -> dict[str, Any]:
    """Write the kept rows with their scores, prose, domain and split, and the dropped ones with their reason and, if
    that is a suite, its item and overlap.

    Returns documents kept by split, dropped by reason, and the suites' 8-grams that are still in what is kept.
    """
    table, surveyed, scored = pq.read_table(documents), pq.read_table(survey), pq.read_table(scores)
    for name in SCORES:
        if name in scored.column_names:
            table = table.append_column(name, scored[name])
    table = table.append_column("prose", surveyed["prose"]).append_column("domain", surveyed["domain"])
    split = np.full(len(table), "train", object)
    for domain, border in borders.items():
        inside = pc.equal(surveyed["domain"], domain).to_numpy()
        split[inside & is_validation(surveyed["split_hash"].to_numpy(), border)] = "validation"
    keep = pc.is_null(scored["reason"])
    rows = table.append_column("split", pa.array(split, pa.string())).filter(keep)
    write_table(rows, Path(kept))
    for name in scored.column_names:
        if name not in SCORES:
            table = table.append_column(name, scored[name])
    gone = table.filter(pc.invert(keep))
    write_table(gone, Path(dropped))
    return {
        "splits": _counts(rows["split"]),
        "dropped": _counts(gone["reason"]),
        "grams": _kept_grams(survey, keep.to_numpy(), config),
    }


def _page_types(table: pa.Table) -> pa.Array | pa.ChunkedArray:
    """The extractor's type of each page, empty where there is none."""
    if "page_type" not in table.column_names:
        return pa.array([""] * len(table), pa.string())
    return pc.fill_null(table["page_type"], "").cast(pa.string())


def hits_path(survey: str) -> Path:
    """Where a survey puts the 8-grams it met."""
    return Path(survey).with_suffix(".hits.parquet")


def overlaps_path(survey: str) -> Path:
    """Where a survey puts which share of which items the documents hold."""
    return Path(survey).with_suffix(".overlaps.parquet")


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


def write_table(table: pa.Table, path: Path) -> None:
    """Write a whole Parquet file, or none."""
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
