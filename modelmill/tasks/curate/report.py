"""What the parts of curate counted → the report on suites, the list of removed documents, and the stage's summary."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from modelmill.tasks.curate.config import Config
from modelmill.tasks.curate.decontaminate import BY_GRAM, BY_WORDS, NGRAM, contaminated_items, suite_index
from modelmill.tasks.curate.exact import exact_index
from modelmill.tasks.curate.parts import CONTAMINATED, EVIDENCE, NUM_EXAMPLES
from modelmill.tasks.files import atomic_path
from modelmill.tasks.suites.reader import suite_digest

NUM_GROUPS = 30


def suite_report(
    config: Config, surveyed: Sequence[Any], written: Sequence[Any], removed: pl.DataFrame
) -> dict[str, Any]:
    """For each suite: which items the corpus held, found in either way, and what was removed for it."""
    report = {}
    for number, wanted in enumerate(config.suites):
        index = suite_index(wanted.suite, wanted.ratio)
        name = index.suite.name
        before = [gram for part in surveyed for gram in part["grams"][name]]
        after = [gram for part in written for gram in part["grams"][number]]
        possible = exact_index(index.suite).possible
        rows = removed.filter(pl.col("suite") == name)
        by_match = dict(rows["match"].value_counts().iter_rows())
        report[name] = {
            "digest": suite_digest(wanted.suite),
            "ngram": NGRAM,
            "ratio": wanted.ratio,
            "items": len(index.words),
            "items_too_short": int(np.sum(~index.checkable)),
            "items_not_looked_for": int(np.sum(~index.checkable & ~possible)),
            "contaminated_before": contaminated_items(np.array(before, np.int64), index),
            "contaminated_after": contaminated_items(np.array(after, np.int64), index),
            "exact_before": sorted({item for part in surveyed for item in part["exact"][name]}),
            "documents_removed": len(rows),
            "documents_removed_by": {match: by_match.get(match, 0) for match in (BY_GRAM, BY_WORDS)},
            "examples": rows.head(NUM_EXAMPLES).drop("suite").with_columns(pl.col("overlap").round(4)).to_dicts(),
        }
    return report


def write_removed(dropped: Sequence[Path], output: Path) -> pl.DataFrame:
    """List the documents that were dropped for a suite's sake: id, url, suite, item, overlap, match."""
    columns = ["id", "url", *EVIDENCE]
    frames = [
        pl.read_parquet(path, columns=["reason", *columns]).filter(pl.col("reason").str.starts_with(CONTAMINATED))
        for path in dropped
    ]
    listed = pl.concat(frames).select(
        "id", "url", pl.col("reason").str.strip_prefix(CONTAMINATED).alias("suite"), *EVIDENCE
    )
    with atomic_path(output) as temporary:
        listed.write_parquet(temporary)
    return listed


def summary(
    found: dict[str, Any], domains: dict[str, dict[str, Any]], mixture: dict[str, float],
    suites: dict[str, Any], shares: dict[str, Any],
) -> str:  # fmt: skip
    """Markdown for people."""
    lines = ["| domain | documents | MB | weight |", "|---|---:|---:|---:|"]
    for domain, entry in domains.items():
        lines.append(f"| {domain} | {entry['documents']:,} | {entry['bytes'] / 1e6:.2f} | {mixture[domain]:.3f} |")
    if training := found["training"]:
        lines += ["", f"Quality student: {training['positive']} good and {training['negative']} poor examples, "]
        lines[-1] += f"AUC {training['auc']['mean']} over {len(training['auc']['folds'])} folds."
    if named := found["categories"]:
        lines += ["", *_category_lines(named)]
    for column, groups in shares.items():
        lines += ["", *_share_lines(column, groups)]
    for name, suite in suites.items():
        lines += ["", *_suite_lines(name, suite)]
    return "\n".join(lines)


def _category_lines(named: dict[str, Any]) -> list[str]:
    head = (
        f"Category student: {named['documents']:,} examples of {named['categories']} categories; over {named['folds']} "
    )
    head += (
        f"folds it names the right one for {named['accuracy']:.1%}, the right topic for {named['topic_accuracy']:.1%}."
    )
    confused = [f"{each['is']} taken for {each['taken_for']} ({each['documents']})" for each in named["confusions"][:5]]
    lines = [head + (f" Commonest errors: {', '.join(confused)}." if confused else "")]
    if named["too_few"]:
        lines.append(f"Too few examples, so never named: {', '.join(named['too_few'])}.")
    return lines


def _share_lines(column: str, groups: dict[str, Any]) -> list[str]:
    name = column.replace("_", " ")
    lines = [f"| {name} | MB before | share before | greatest share | share now |", "|---|---:|---:|---:|---:|"]
    largest = sorted(groups.items(), key=lambda each: (-each[1]["bytes_before"], each[0]))
    for group, entry in largest[:NUM_GROUPS]:
        wanted = "" if entry["greatest_share"] is None else f"{entry['greatest_share']:.3f}"
        lines.append(
            f"| {group or 'unknown'} | {entry['bytes_before'] / 1e6:.2f} | {entry['share_before']:.3f} | {wanted} "
            f"| {entry['share']:.3f} |"
        )
    return [*lines, f"| {len(groups) - NUM_GROUPS} others | | | | |"] if len(groups) > NUM_GROUPS else lines


def _suite_lines(name: str, suite: dict[str, Any]) -> list[str]:
    before, after = len(suite["contaminated_before"]), len(suite["contaminated_after"])
    by = suite["documents_removed_by"]
    head = (
        f"{name}: of {suite['items']} items {before} were in the corpus by 8-grams ({suite['items_too_short']} are too "
    )
    head += f"short for these) and {len(suite['exact_before'])} word by word ({suite['items_not_looked_for']} could be "
    head += f"looked for neither way); {suite['documents_removed']} documents removed ({by[BY_GRAM]} by 8-grams, "
    head += f"{by[BY_WORDS]} word by word), {after} items remain."
    return [head] + [
        f"- {row['id']} ({row['url']}): {row['overlap']:.0%} of item {row['item']} ({row['match']})"
        for row in suite["examples"]
    ]
