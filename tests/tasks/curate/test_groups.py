"""Page types, categories and shares in the stage: labels on every document, reasons, and the same bytes however cut."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from modelmill.tasks.curate.config import PAGE_TYPES, Config, external_digests
from modelmill.tasks.curate.labels import SHIPPED, category_names, load_labels
from modelmill.tasks.curate.stage import run
from modelmill.tasks.errors import InputError
from modelmill.tasks.files import read_json
from modelmill.tasks.ingest.main_text import model
from modelmill.tasks.stage import Artifact, StageContext
from tests.tasks.curate.small_unique import documents, listing, prose

Make = Callable[[dict[str, Any]], StageContext]


@pytest.fixture
def typed(unique: Artifact) -> Artifact:
    """The documents with page types: of every six two products, a listing, a page of unknown type, two articles."""
    kinds = ["product", "product", "listing", "", "article", "article"]
    for path in sorted((unique.path / "documents").iterdir()):
        table = pq.read_table(path)
        types = pa.array([kinds[number % 6] for number in range(len(table))])
        pq.write_table(table.append_column("page_type", types), path)
    return unique


@pytest.fixture
def grouped(tmp_path: Path) -> dict[str, Any]:
    """A recipe whose student is taught by a file."""
    labels = tmp_path / "labels.yaml"
    labels.write_text("writing:\n  prose: sentences\ncode:\n  names: lists of names\n  unseen: nothing\n")
    rows = [{"text": prose(number), "label": "writing/prose"} for number in range(200, 230)]
    rows += [{"text": listing(number), "label": "code/names"} for number in range(200, 230)]
    (tmp_path / "labelled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"categories": {"labels": str(labels), "reference": str(tmp_path / "labelled.jsonl")}}


def test_types_categories_and_shares(make_context: Make, typed: Artifact, grouped: dict[str, Any]) -> None:
    grouped |= {"page_types": ["product", "article"], "shares": {"topic": {"code": 0.2}}}
    context = make_context(grouped)
    result = run(context)
    kept = pq.read_table(context.output / "documents").to_pylist()
    dropped = pq.read_table(context.output / "dropped").to_pylist()
    assert result.dropped.keys() == {"page_type_listing", "downsampled_code"}
    assert {row["page_type"] for row in kept} == {"product", "article", ""}
    assert {row["page_type"] for row in dropped if row["reason"] == "page_type_listing"} == {"listing"}
    for row in kept + dropped:
        assert row["category"] == ("writing/prose" if "valley" in row["text"] else "code/names")
        assert row["topic"] == row["category"].split("/")[0] and 0.5 < row["category_score"] <= 1
    assert {row["topic"] for row in dropped if row["reason"] == "downsampled_code"} == {"code"}
    report = read_json(context.output / "report" / "shares.json")["topic"]["code"]
    size = sum(len(row["text"]) for row in kept if row["topic"] == "code") / sum(len(row["text"]) for row in kept)
    assert report["share"] == pytest.approx(size, abs=1e-4) and abs(size - 0.2) < 0.06 < report["share_before"] - 0.2
    assert result.metrics["category_accuracy"] == 1.0
    assert external_digests(context.config).keys() == {"categories.labels", "categories.reference"}


def test_the_choice_knows_neither_parts_nor_order(
    make_context: Make, unique: Artifact, grouped: dict[str, Any]
) -> None:
    grouped |= {"shares": {"topic": {"code": 0.1}, "domain": {"farm": 0.3}}, "domains": {"farm": {"urls": ["//farm"]}}}

    def kept() -> set[str]:
        context = make_context(grouped)
        shutil.rmtree(context.workspace, ignore_errors=True)
        run(context)
        return set(pq.read_table(context.output / "documents")["id"].to_pylist())

    first = kept()
    folder = unique.path / "documents"
    whole = pa.concat_tables([documents(part) for part in range(3)])
    whole = whole.take(pa.array(range(len(whole) - 1, -1, -1)))
    for number, (start, size) in enumerate(((0, 10), (10, 100), (110, 70))):
        pq.write_table(whole.slice(start, size), folder / f"part-{number:05d}.parquet")
    assert kept() == first and 60 < len(first) < 140


def test_what_cannot_be_is_said(make_context: Make, grouped: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="no document has one"):
        run(make_context({"page_types": ["article"]}))
    with pytest.raises(ValidationError, match="page_types names novel; the types are article"):
        Config.model_validate({"page_types": ["novel"]})
    with pytest.raises(ValidationError, match="need `categories`"):
        Config.model_validate({"shares": {"topic": {"arts": 0.1}}})
    wrong = Config.model_validate(grouped | {"shares": {"category": {"code/name": 0.1}}})
    with pytest.raises(InputError, match="did you mean code/names"):
        external_digests(wrong)


def test_the_shipped_list_and_the_extractors_types() -> None:
    labels = load_labels(SHIPPED)
    names = category_names(labels)
    assert 180 <= len(names) <= 260 and len(set(names)) == len(names)
    assert all(len(text.split()) >= 2 for listed in labels.values() for text in listed.values())
    assert sorted(model.PAGE_TYPES) == sorted(PAGE_TYPES)
