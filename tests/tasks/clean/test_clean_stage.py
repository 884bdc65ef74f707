"""The whole chain on one table, and the stage over shards."""

from pathlib import Path

import pyarrow as pa
import pytest

from modelmill.tasks.clean.config import Config
from modelmill.tasks.clean.rules import clean_rows, clean_table
from modelmill.tasks.clean.stage import run
from modelmill.tasks.dedup.rows import SerialPool
from modelmill.tasks.errors import InputError
from modelmill.tasks.files import file_digest
from modelmill.tasks.journal import Journal
from modelmill.tasks.stage import Artifact, Pool, StageContext
from modelmill.tasks.text.shards import read_shard, write_shard

SENTENCES = (
    "The river that runs through the old town has been crossed by seven bridges since the middle ages.",
    "Most of them were built of stone, with narrow arches, and two have survived every flood to this day.",
    "In the winter of the great frost, merchants held their market on the ice for more than six weeks.",
    "Engineers have since deepened the channel, so that larger boats can reach the harbour with their goods.",
    "Visitors who come to the museum learn how the tolls of the bridges paid for the walls of the city.",
)
GOOD = "\n".join(SENTENCES)


def page(number: int, text: str, url: str = "https://example.org/{}") -> dict[str, str]:
    return {
        "id": f"page-{number}", "url": url.format(number), "date": "2026-01-01T00:00:00Z",
        "source": "test", "title": "", "text": text,
    }  # fmt: skip


PAGES = [
    page(0, GOOD),
    page(1, GOOD, "https://pornhub.com/{}"),
    page(2, "Too short a text to be of use to anybody at all."),
    page(3, "\n".join([SENTENCES[0]] * 9)),
    page(4, GOOD + "\nMenu\nWrite to someone@bridges.org for more about it."),
    page(5, GOOD + "\nif (x) { return the_value_of_it; } here."),
    page(6, ""),
]


def test_every_row_is_kept_or_dropped_with_a_reason() -> None:
    table = pa.Table.from_pylist(PAGES)
    cleaned = clean_table(table, Config())
    assert cleaned.kept["id"].to_pylist() == ["page-0", "page-4"]
    assert cleaned.kept["text"].to_pylist()[0] == GOOD
    assert cleaned.kept["text"].to_pylist()[1] == GOOD + "\nWrite to <email> for more about it."
    reasons = dict(zip(cleaned.dropped["id"].to_pylist(), cleaned.dropped["reason"].to_pylist(), strict=True))
    assert reasons == {
        "page-1": "url_blocked_domain",
        "page-2": "gopher_too_few_words",
        "page-3": "repetition_duplicate_lines",
        "page-5": "c4_curly_bracket",
        "page-6": "language_unknown",
    }
    assert cleaned.redacted["email"] == 1
    originals = {row["id"]: row["text"] for row in PAGES}
    assert all(originals[row["id"]] == row["text"] for row in cleaned.dropped.to_pylist())
    given = ["language", "language_score", "safety_score"]
    assert cleaned.kept.column_names == [*table.column_names, *given, "redacted"]
    assert cleaned.dropped.column_names == [*table.column_names, "language", "language_score", "reason", "safety_score"]


def test_rules_that_are_off_judge_nothing() -> None:
    families = ("url", "repetition", "gopher", "c4", "fineweb", "safety", "personal_data")
    off = Config.model_validate({family: {"enabled": False} for family in families} | {"min_language_score": 0})
    table = pa.Table.from_pylist(PAGES)
    kept, dropped = clean_rows(table, off)
    assert kept["text"].to_pylist() == [row["text"] for row in PAGES[:6]]
    assert dropped["reason"].to_pylist() == ["language_unknown"]


def test_an_empty_table_gives_empty_tables() -> None:
    kept, dropped = clean_rows(pa.Table.from_pylist(PAGES).slice(0, 0), Config())
    assert kept.num_rows == dropped.num_rows == 0
    assert "reason" in dropped.column_names


def context(folder: Path, shards: list[list[dict[str, str]]], pool: Pool, config: Config) -> StageContext:
    for number, rows in enumerate(shards):
        write_shard(pa.Table.from_pylist(rows), folder / "pages" / "pages" / f"part-{number:05d}.parquet")
    pages = Artifact("pages", folder / "pages", "digest", "ingest", {})
    journal = Journal(folder / "journal.jsonl")
    return StageContext(config, {"pages": [pages]}, folder, folder / "output", pool, journal, lambda: None)  # type: ignore[arg-type,return-value]


def test_the_stage_writes_shards_and_counts(tmp_path: Path, pool: Pool) -> None:
    result = run(context(tmp_path, [PAGES[:3], PAGES[3:]], pool, Config()))
    assert (result.rows_in, result.rows_out, sum(result.dropped.values())) == (7, 2, 5)
    assert result.metrics["redacted_email"] == 1
    kept = [read_shard(path) for path in sorted((tmp_path / "output" / "documents").iterdir())]
    assert [table.num_rows for table in kept] == [1, 1]
    assert kept[0].schema == kept[1].schema
    dropped = [read_shard(path).num_rows for path in sorted((tmp_path / "output" / "dropped").iterdir())]
    assert dropped == [2, 3]


def test_domains_dense_with_personal_data_are_dropped_whole(tmp_path: Path, pool: Pool) -> None:
    members = "\n".join([GOOD, *(f"Member number {n} of the club of the bridges is a{n}@club.org." for n in range(20))])
    shards = [
        [page(n, members, "https://www.members.org/{}") for n in range(2)] + [page(2, GOOD, "https://good.org/{}")],
        [page(n, members, "https://allowed.org/{}") for n in range(3, 6)] + [page(6, GOOD, "https://members.org/{}")],
        [page(7, members, "https://few.org/{}")],
    ]
    rule = {"enabled": True, "min_documents": 3, "max_density": 2.0}
    config = Config.model_validate(
        {"url": {"allowed_domains": ["allowed.org"]}, "personal_data": {"dense_domains": rule}}
        | {family: {"enabled": False} for family in ("repetition", "gopher", "c4", "fineweb")}
    )
    result = run(context(tmp_path, shards, pool, config))
    assert result.dropped == {"domain_personal_data": 3}
    assert "| members.org | 3 |" in result.summary
    listed = read_shard(tmp_path / "output" / "report" / "dense_domains.parquet").to_pylist()
    assert [(row["domain"], row["documents"], row["personal_data"]) for row in listed] == [("members.org", 3, 40)]
    dropped = read_shard(tmp_path / "output" / "dropped" / "part-00000.parquet")
    assert dropped["text"].to_pylist() == [members, members]


def test_equal_pages_give_equal_bytes(tmp_path: Path) -> None:
    outputs = []
    for name in ("one", "two"):
        run(context(tmp_path / name, [PAGES], SerialPool(), Config()))
        outputs.append(file_digest(tmp_path / name / "output" / "documents" / "part-00000.parquet"))
    assert outputs[0] == outputs[1]


def test_nothing_left_is_an_error_that_names_the_reasons(tmp_path: Path, pool: Pool) -> None:
    with pytest.raises(InputError, match="gopher_too_few_words 1"):
        run(context(tmp_path, [[PAGES[2]]], pool, Config()))
