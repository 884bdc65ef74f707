"""The stage whole: every document is kept with its labels or dropped with its reason, the same on every run."""

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from modelmill.tasks.curate.config import Config, external_digests
from modelmill.tasks.curate.stage import run
from modelmill.tasks.errors import InputError
from modelmill.tasks.files import file_digest, read_json, remove_path
from modelmill.tasks.stage import Call, Pool, StageContext

Make = Callable[[dict[str, Any]], StageContext]


def rows(folder: Path) -> list[dict[str, Any]]:
    return pq.read_table(folder).to_pylist()


def test_every_document_is_kept_or_dropped(make_context: Make, recipe: dict[str, Any]) -> None:
    context = make_context(recipe)
    result = run(context)
    kept, dropped = rows(context.output / "documents"), rows(context.output / "dropped")
    assert (result.rows_in, result.rows_out, len(kept)) == (180, 117, 117)
    assert (
        result.dropped == {"low_quality": 60, "contaminated:mill-questions": 3} == Counter(r["reason"] for r in dropped)
    )
    assert all(row["quality"] >= 0.3 for row in kept)
    assert {row["id"] for row in dropped if row["reason"] != "low_quality"} == {"0-7", "1-7", "2-7"}
    leaks = [(row["item"], row["match"]) for row in dropped if row["reason"] == "contaminated:mill-questions"]
    assert leaks == [("leaked", "exact")] * 3
    assert {row["item"] for row in dropped if row["reason"] == "low_quality"} == {None}
    assert all(0 <= row["prose"] <= 1 for row in kept + dropped)
    assert result.metrics["quality_auc"] > 0.95


def test_domains_splits_and_mixture(make_context: Make, recipe: dict[str, Any]) -> None:
    context = make_context(recipe)
    result = run(context)
    kept = rows(context.output / "documents")
    assert Counter(row["domain"] for row in kept) == {"farm": 57, "town": 30, "other": 30}
    assert all(row["source"] == "crawl" for row in kept if row["domain"] == "town")
    held_out = Counter(row["domain"] for row in kept if row["split"] == "validation")
    assert min(held_out[domain] for domain in ("farm", "town", "other")) >= 3
    assert held_out.total() == result.metrics["validation_documents"] < 25
    mixture = read_json(context.output / "mixture.json")
    size = Counter()
    for row in kept:
        size[row["domain"]] += len(row["text"].encode())
    assert mixture == pytest.approx({domain: bytes / size.total() for domain, bytes in size.items()})


def test_decontamination_report(make_context: Make, recipe: dict[str, Any]) -> None:
    context = make_context(recipe)
    run(context)
    report = read_json(context.output / "decontamination.json")["mill-questions"]
    assert report["contaminated_before"] == ["leaked"]
    assert report["contaminated_after"] == []
    assert (report["documents_removed"], report["items"], report["items_too_short"]) == (3, 3, 1)
    assert (report["exact_before"], report["items_not_looked_for"]) == (["leaked"], 0)
    assert report["documents_removed_by"] == {"8-gram": 0, "exact": 3}  # its question is a line of theirs
    assert report["examples"][0] == {
        "id": "0-7",
        "url": "https://farm.example/0/7",
        "item": "leaked",
        "overlap": 1.0,
        "match": "exact",
    }
    listed = pq.read_table(context.output / "report" / "contaminated.parquet").to_pylist()
    assert [(row["id"], row["suite"], row["item"]) for row in listed] == [
        (f"{part}-7", "mill-questions", "leaked") for part in range(3)
    ]
    assert [row["id"] for row in report["examples"]] == ["0-7", "1-7", "2-7"]
    assert external_digests(Config.model_validate(recipe)) == {"suites[0] mill-questions": report["digest"]}


def digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): file_digest(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def test_rerun_gives_the_same_bytes(make_context: Make, recipe: dict[str, Any]) -> None:
    context = make_context(recipe)
    run(context)
    first = digests(context.output)
    run(context)  # every call is recorded
    assert digests(context.output) == first
    remove_path(context.workspace)
    run(context)
    assert digests(context.output) == first


class RecordingPool:
    """The real pool, and which passes it was asked for."""

    def __init__(self, pool: Pool) -> None:
        self.pool, self.num_workers, self.labels = pool, pool.num_workers, []

    def map(self, function: Callable[..., Any], calls: Sequence[Call], label: str) -> list[Any]:
        self.labels.append(label)
        return self.pool.map(function, calls, label)

    def run(self, function: Callable[..., Any], arguments: dict[str, Any], label: str) -> Any:
        return self.pool.run(function, arguments, label)


def test_other_thresholds_take_over_the_scores(make_context: Make, recipe: dict[str, Any], tmp_path: Path) -> None:
    context = make_context(recipe)
    run(context)
    shutil.copytree(context.output, tmp_path / "earlier")
    remove_path(context.workspace)

    recipe["quality"]["threshold"] = 0.9
    recipe["suites"][0]["ratio"] = 1.0
    recipe |= {"validation_share": 0.1, "mixture": {"temperature": 2.0}, "shares": {"domain": {"farm": 0.2}}}
    context = make_context(recipe)
    run(context)
    anew = digests(context.output)
    remove_path(context.workspace)

    pool = RecordingPool(context.pool)
    run(replace(context, pool=pool, scored=tmp_path / "earlier" / "scores"))
    assert pool.labels == ["select", "count groups", "balance", "write"]
    assert digests(context.output) == anew
    assert digests(context.output) != digests(tmp_path / "earlier")


def test_without_a_student_everything_stays(make_context: Make) -> None:
    context = make_context({})
    result = run(context)
    assert result.rows_out == 180
    kept = rows(context.output / "documents")
    assert {(row["quality"], row["domain"]) for row in kept} == {(1.0, "other")}
    assert read_json(context.output / "mixture.json") == {"other": 1.0}
    assert pq.read_schema(context.output / "dropped" / "part-00000.parquet").names[-1] == "reason"


def test_rules_that_teach_nothing_stop_the_stage(make_context: Make, recipe: dict[str, Any]) -> None:
    recipe["quality"]["positive"] = {"urls": ["//nowhere"]}
    with pytest.raises(InputError, match=r"quality\.positive holds for 0 of 180 documents"):
        run(make_context(recipe))


def test_nothing_left_stops_the_stage(make_context: Make, recipe: dict[str, Any]) -> None:
    recipe["quality"]["threshold"] = 0.9999
    with pytest.raises(InputError, match="curate keeps no document"):
        run(make_context(recipe))
