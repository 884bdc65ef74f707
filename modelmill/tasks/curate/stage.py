"""Unique documents → the corpus: scored, labelled by domain, without the suites' items, weighed and split."""

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from modelmill.tasks.curate.config import Config
from modelmill.tasks.curate.decontaminate import NGRAM, contaminated_items, suite_index
from modelmill.tasks.curate.parts import CONTAMINATED, NUM_EXAMPLES, score_part, select_part, survey_part, write_part
from modelmill.tasks.curate.quality import train_quality
from modelmill.tasks.curate.semantic import semantic_scores
from modelmill.tasks.curate.split import mixture_weights, validation_border
from modelmill.tasks.curate.teacher import teacher_labels
from modelmill.tasks.errors import InputError
from modelmill.tasks.files import atomic_path, read_json, write_json
from modelmill.tasks.stage import SCORES, Call, StageContext, StageResult
from modelmill.tasks.suites.reader import suite_digest


def run(context: StageContext) -> StageResult:
    """Score, or take an earlier build's scores → apply the thresholds → semantic dedup if wanted → write."""
    config: Config = context.config
    documents = sorted((context.latest("unique").path / "documents").glob("part-*.parquet"))
    surveys = [context.output / SCORES / "surveys" / path.name for path in documents]
    qualities = [context.output / SCORES / "qualities" / path.name for path in documents]
    scores = [context.workspace / "selections" / path.name for path in documents]

    found = _found(context, documents, surveys, qualities)
    calls = [
        Call(
            path.stem,
            {
                "documents": str(path),
                "survey": str(survey),
                "scores": str(quality),
                "output": str(output),
                "config": config,
            },
        )
        for path, survey, quality, output in zip(documents, surveys, qualities, scores, strict=True)
    ]
    scored = context.pool.map(select_part, calls, "select")
    if config.semantic is not None and any(each["kept"] for each in scored):
        scores, scored = semantic_scores(context, documents, surveys, scores)
    domains = _domain_totals([each["kept"] for each in scored], config)
    mixture = mixture_weights(config.mixture, {domain: entry["bytes"] for domain, entry in domains.items()})
    written = context.pool.map(write_part, _write_calls(context, documents, surveys, scores, domains), "write")

    write_json(context.output / "mixture.json", mixture)
    suites = _suite_report(config, found["surveyed"], written)
    write_json(context.output / "decontamination.json", suites)
    return _result(documents, written, found["training"], domains, mixture, suites)


def _found(
    context: StageContext, documents: Sequence[Path], surveys: Sequence[Path], qualities: Sequence[Path]
) -> dict[str, Any]:
    """What the survey and the student's training found, with the scores of every document in the output."""
    folder = context.output / SCORES
    if context.scored is not None:
        with atomic_path(folder) as temporary:
            shutil.copytree(context.scored.path / SCORES, temporary)
        context.journal.note(f"the scores of build {context.scored.digest[:8]} hold: only thresholds differ")
        return read_json(folder / "found.json")
    calls = [
        Call(path.stem, {"documents": str(path), "output": str(survey), "config": context.config})
        for path, survey in zip(documents, surveys, strict=True)
    ]
    surveyed = context.pool.map(survey_part, calls, "survey")
    model, training = _train(context, documents, surveys)
    calls = [
        Call(path.stem, {"documents": str(path), "model": model, "output": str(output)})
        for path, output in zip(documents, qualities, strict=True)
    ]
    context.pool.map(score_part, calls, "score")
    found = {"surveyed": surveyed, "training": training}
    write_json(folder / "found.json", found)
    return found


def _train(
    context: StageContext, documents: Sequence[Path], surveys: Sequence[Path]
) -> tuple[str | None, dict[str, Any]]:
    """Path of the student's weights, and what its training measured."""
    quality = context.config.quality
    if quality is None:
        return None, {}
    model = str(context.output / SCORES / "quality.npz")
    labels = surveys
    if quality.teacher is not None:
        labels = [context.output / SCORES / "labels" / path.name for path in documents]
        teacher_labels(context, quality.teacher, documents, surveys, labels)
    arguments = {
        "documents": [str(path) for path in documents],
        "labels": [str(path) for path in labels],
        "output": model,
        "folds": quality.folds,
        "max_documents": quality.max_training_documents,
        "seed": context.config.seed,
    }
    return model, context.pool.map(train_quality, [Call("student", arguments)], "quality")[0]


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


def _suite_report(config: Config, surveyed: Sequence[Any], written: Sequence[Any]) -> dict[str, Any]:
    """For each suite: which items the corpus covers before and after the documents that hold one were removed."""
    report = {}
    for number, wanted in enumerate(config.suites):
        index = suite_index(wanted)
        name = index.suite.name
        before = [gram for part in surveyed for gram in part["grams"][name]]
        after = [gram for part in written for gram in part["grams"][number]]
        reason = f"{CONTAMINATED}{name}"
        report[name] = {
            "digest": suite_digest(wanted.suite),
            "ngram": NGRAM,
            "ratio": wanted.ratio,
            "items": len(index.words),
            "items_too_short": int(np.sum(~index.checkable)),
            "contaminated_before": contaminated_items(np.array(before, np.int64), index),
            "contaminated_after": contaminated_items(np.array(after, np.int64), index),
            "documents_removed": sum(part["dropped"].get(reason, 0) for part in written),
            "examples": [row for part in written for row in part["examples"].get(reason, [])][:NUM_EXAMPLES],
        }
    return report


def _result(
    documents: Sequence[Path],
    written: Sequence[Any],
    training: dict[str, Any],
    domains: dict[str, dict[str, Any]],
    mixture: dict[str, float],
    suites: dict[str, Any],
) -> StageResult:
    splits, dropped = Counter(), Counter()
    for part in written:
        splits.update(part["splits"])
        dropped.update(part["dropped"])
    metrics = {f"documents/{domain}": float(entry["documents"]) for domain, entry in domains.items()}
    metrics |= {f"weight/{domain}": weight for domain, weight in mixture.items()}
    metrics |= {f"contaminated/{name}": float(len(suite["contaminated_before"])) for name, suite in suites.items()}
    metrics["validation_documents"] = float(splits["validation"])
    if training and training["auc"]["mean"] is not None:
        metrics["quality_auc"] = training["auc"]["mean"]
    return StageResult(
        rows_in=sum(pq.read_metadata(path).num_rows for path in documents),
        rows_out=splits.total(),
        unit="documents",
        dropped=dict(sorted(dropped.items())),
        metrics=metrics,
        summary=_summary(training, domains, mixture, suites),
    )


def _summary(
    training: dict[str, Any], domains: dict[str, dict[str, Any]], mixture: dict[str, float], suites: dict[str, Any]
) -> str:
    lines = ["| domain | documents | MB | weight |", "|---|---:|---:|---:|"]
    for domain, entry in domains.items():
        lines.append(f"| {domain} | {entry['documents']:,} | {entry['bytes'] / 1e6:.2f} | {mixture[domain]:.3f} |")
    if training:
        lines += ["", f"Quality student: {training['positive']} good and {training['negative']} poor examples, "]
        lines[-1] += f"AUC {training['auc']['mean']} over {len(training['auc']['folds'])} folds."
    for name, suite in suites.items():
        before, after = len(suite["contaminated_before"]), len(suite["contaminated_after"])
        lines += ["", f"{name}: {before} of {suite['items']} items were in the corpus ({suite['items_too_short']} too "]
        lines[-1] += f"short to look for); {suite['documents_removed']} documents removed, {after} items remain."
        lines += [
            f"- {row['id']} ({row['url']}): {row['overlap']:.0%} of item {row['item']}" for row in suite["examples"]
        ]
    return "\n".join(lines)
