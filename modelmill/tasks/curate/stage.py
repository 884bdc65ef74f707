"""Unique documents → the corpus: scored, labelled by domain, without the suites' items, weighed and split."""

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from modelmill.tasks.curate.balance import balanced_scores
from modelmill.tasks.curate.config import Config
from modelmill.tasks.curate.parts import score_part, select_part, survey_part, write_part
from modelmill.tasks.curate.report import suite_report, summary, write_removed
from modelmill.tasks.curate.semantic import semantic_scores
from modelmill.tasks.curate.split import mixture_weights, validation_border
from modelmill.tasks.curate.training import trained_categories, trained_quality
from modelmill.tasks.errors import InputError
from modelmill.tasks.files import atomic_path, read_json, write_json
from modelmill.tasks.stage import SCORES, Call, StageContext, StageResult


def run(context: StageContext) -> StageResult:
    """Score, or take an earlier build's scores → apply the thresholds → semantic dedup and shares if wanted → write."""
    config: Config = context.config
    documents = sorted((context.latest("unique").path / "documents").glob("part-*.parquet"))
    surveys = [context.output / SCORES / "surveys" / path.name for path in documents]
    found = _found(context, documents, surveys)
    scores, selected = _selected(context, documents, surveys)
    shares: dict[str, Any] = {}
    if config.semantic is not None and any(each["kept"] for each in selected):
        scores, selected = semantic_scores(context, documents, surveys, scores)
    if config.shares.columns:
        scores, selected, shares = balanced_scores(context, surveys, scores)
    domains = _domain_totals([each["kept"] for each in selected], config)
    mixture = mixture_weights(config.mixture, {domain: entry["bytes"] for domain, entry in domains.items()})
    written = context.pool.map(write_part, _write_calls(context, documents, surveys, scores, domains), "write")

    write_json(context.output / "mixture.json", mixture)
    suites: dict[str, Any] = {}
    if config.suites:
        dropped = [context.output / "dropped" / path.name for path in documents]
        removed = write_removed(dropped, context.output / "report" / "contaminated.parquet")
        suites = suite_report(config, found["surveyed"], written, removed)
    write_json(context.output / "decontamination.json", suites)
    if shares:
        write_json(context.output / "report" / "shares.json", shares)
    return _result(documents, written, found, domains, mixture, suites, shares)


def _found(context: StageContext, documents: Sequence[Path], surveys: Sequence[Path]) -> dict[str, Any]:
    """What the survey and the students' training found, with the scores of every document in the output."""
    folder = context.output / SCORES
    if context.scored is not None:
        with atomic_path(folder) as temporary:
            shutil.copytree(context.scored, temporary)
        context.journal.note("the scores of an earlier build hold: only thresholds differ")
        return read_json(folder / "found.json")
    calls = [
        Call(path.stem, {"documents": str(path), "output": str(survey), "config": context.config})
        for path, survey in zip(documents, surveys, strict=True)
    ]
    surveyed = context.pool.map(survey_part, calls, "survey")
    quality, training = trained_quality(context, documents, surveys)
    categories, named = trained_categories(context, documents, surveys)
    students = {"quality": quality, "categories": categories}
    calls = [
        Call(path.stem, {"documents": str(path), "output": str(folder / "students" / path.name)} | students)
        for path in documents
    ]
    context.pool.map(score_part, calls, "score")
    found = {"surveyed": surveyed, "training": training, "categories": named}
    write_json(folder / "found.json", found)
    return found


def _selected(
    context: StageContext, documents: Sequence[Path], surveys: Sequence[Path]
) -> tuple[list[Path], list[dict[str, Any]]]:
    """Apply the thresholds → the files with scores and reasons, and what is kept of each part.

    Raises:
        InputError: page types are to be kept, and no document has one.
    """
    outputs = [context.workspace / "selections" / path.name for path in documents]
    calls = [
        Call(
            path.stem,
            {
                "survey": str(survey),
                "scores": str(context.output / SCORES / "students" / path.name),
                "output": str(output),
                "config": context.config,
            },
        )
        for path, survey, output in zip(documents, surveys, outputs, strict=True)
    ]
    selected = context.pool.map(select_part, calls, "select")
    if (context.config.page_types or context.config.shares.page_type) and not any(each["typed"] for each in selected):
        raise InputError(
            "curate is to choose by page type, but no document has one; let ingest extract with Modelmill's own "
            "extractor, which writes it (`extractor: modelmill`), or leave page_types and shares.page_type out"
        )
    return outputs, selected


def _domain_totals(parts: Sequence[dict[str, Any]], config: Config) -> dict[str, dict[str, Any]]:
    """Documents, bytes and validation border of each domain that keeps documents."""
    totals = {}
    for domain in sorted(set().union(*parts)):
        entries = [part[domain] for part in parts if domain in part]
        count = sum(entry["documents"] for entry in entries)
        smallest = [value for entry in entries for value in entry["smallest"]]
        border = validation_border(smallest, count, config.validation_share, config.min_validation_documents)
        totals[domain] = {"documents": count, "bytes": sum(entry["bytes"] for entry in entries), "border": border}
    if not totals:
        raise InputError(
            "curate keeps no document; lower quality.threshold, "
            "or look at what the stages before have dropped (`mill show`)"
        )
    return totals


def _write_calls(
    context: StageContext,
    documents: Sequence[Path],
    surveys: Sequence[Path],
    scores: Sequence[Path],
    domains: dict[str, dict[str, Any]],
) -> list[Call]:
    borders = {domain: entry["border"] for domain, entry in domains.items()}
    return [
        Call(
            path.stem,
            {
                "documents": str(path),
                "survey": str(survey),
                "scores": str(score),
                "kept": str(context.output / "documents" / path.name),
                "dropped": str(context.output / "dropped" / path.name),
                "borders": borders,
                "config": context.config,
            },
        )
        for path, survey, score in zip(documents, surveys, scores, strict=True)
    ]


def _result(
    documents: Sequence[Path], written: Sequence[Any], found: dict[str, Any], domains: dict[str, dict[str, Any]],
    mixture: dict[str, float], suites: dict[str, Any], shares: dict[str, Any],
) -> StageResult:  # fmt: skip
    splits, dropped = Counter(), Counter()
    for part in written:
        splits.update(part["splits"])
        dropped.update(part["dropped"])
    metrics = {f"documents/{domain}": float(entry["documents"]) for domain, entry in domains.items()}
    metrics |= {f"weight/{domain}": weight for domain, weight in mixture.items()}
    metrics |= {f"contaminated/{name}": float(len(suite["contaminated_before"])) for name, suite in suites.items()}
    metrics |= {f"contaminated_exactly/{name}": float(len(suite["exact_before"])) for name, suite in suites.items()}
    metrics["validation_documents"] = float(splits["validation"])
    if found["training"] and found["training"]["auc"]["mean"] is not None:
        metrics["quality_auc"] = found["training"]["auc"]["mean"]
    if found["categories"]:
        metrics["category_accuracy"] = found["categories"]["accuracy"]
    return StageResult(
        rows_in=sum(pq.read_metadata(path).num_rows for path in documents),
        rows_out=splits.total(),
        unit="documents",
        dropped=dict(sorted(dropped.items())),
        metrics=metrics,
        summary=summary(found, domains, mixture, suites, shares),
    )
