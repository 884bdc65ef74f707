"""`mill look` over small artifacts that are written here, as the runner leaves them."""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from modelmill.flows.cli import main
from modelmill.flows.look.rows import Filters, chosen, grouped, ledger, reason_counts
from modelmill.flows.look.shards import shards_of
from modelmill.flows.look.stage import DataStage, data_stage
from modelmill.flows.look.text import MAX_LINES, compared
from modelmill.services.home import prepare_home
from modelmill.tasks.files import write_json
from modelmill.tasks.text.visible import visible

SCRIPT = "<script>alert(1)</script>"
ESCAPE = "\x1b[31mred\u202e"
INPUTS = {"ingest": [], "clean": [("pages", "ingest")], "dedup": [("documents", "clean")]}


IDENTITY = {"config": {}, "inputs": [], "code": {}, "libraries": {}, "external": {}}


def page(number: int, text: str = "", host: str = "a.example", **columns: Any) -> dict[str, Any]:
    row = {"id": f"id-{number:03d}", "url": f"https://{host}/{number}", "source": "crawl", "title": f"Page {number}"}
    return row | {"text": text or f"First line of {number}.\nSecond line."} | columns


def write_rows(folder: Path, rows: list[dict[str, Any]], shards: int = 2) -> None:
    """Rows in shards of a few row groups; no shard for no rows."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(shards if rows else 0):
        part = rows[number::shards]
        table = pl.DataFrame(part, infer_schema_length=None) if part else pl.DataFrame(rows[:1]).clear()
        table.write_parquet(folder / f"part-{number:05d}.parquet", row_group_size=3)


def write_stage(
    home: Path, stage: str, kept: list[dict[str, Any]], dropped: list[dict[str, Any]], shards: int = 2, **part: Any
) -> None:
    """An artifact with its manifest and key."""
    artifact = home / "artifacts" / f"digest-of-{stage}"
    shutil.rmtree(artifact, ignore_errors=True)
    write_rows(artifact / ("pages" if stage == "ingest" else "documents"), kept, shards)
    write_rows(artifact / "dropped", dropped, shards)
    reasons = [row["reason"] for row in dropped]
    counts = {"in": len(kept) + len(dropped), "out": len(kept), "unit": "documents"}
    manifest = {
        "id": stage, "stage": stage, "key": f"key-of-{stage}", "digest": f"digest-of-{stage}", "created": 1.7e9,
        "counts": counts | {"dropped": {reason: reasons.count(reason) for reason in sorted(set(reasons))}},
        "inputs": [{"type": kind, "stage": maker, "digest": f"digest-of-{maker}"} for kind, maker in INPUTS[stage]],
        "recipe_part": part, "metrics": {}, "waivers": [], "peak_memory_bytes": 1, "why": ["build"], "summary": "",
        "type": "documents", "seconds": 1.0, "files": [], "identity": IDENTITY,
    }  # fmt: skip
    write_json(artifact / "manifest.json", manifest)
    write_json(home / "keys" / stage / f"key-of-{stage}.json", manifest)


@pytest.fixture
def line(home: Path) -> Path:
    """A run of three data stages, with a curate that failed and a pretrain that never began."""
    prepare_home(home)
    pages = [page(number, host="a.example" if number % 3 else "sub.b.example") for number in range(30)]
    pages[1]["text"] = f"Keep this line of text.\nWrite to me@example.org for more of it.\nMenu\n{SCRIPT}\n{ESCAPE}"
    pages[2]["url"] = 'javascript:alert("2")'
    failed = [{"id": "id-900", "url": "https://a.example/900", "source": "crawl", "reason": "http_404", "detail": "x"}]
    write_stage(home, "ingest", pages, failed)
    judged = [row | {"language": "en", "language_score": 0.5 + number / 100} for number, row in enumerate(pages)]
    judged[1] |= {"text": f"Keep this line of text.\nWrite to <email> for more of it.\n{SCRIPT}\n{ESCAPE}"}
    short = [row | {"reason": "too_short"} for row in judged[22:28]]
    unsure = [row | {"reason": "language_uncertain", "language_score": 0.4} for row in judged[28:]]
    unsure[0]["language_score"] = 0.45
    write_stage(home, "clean", judged[:22], short + unsure, min_language_score=0.5)
    # 3 stands for 4 directly and for 5, which had been dropped for 4; 6 stands for 7.
    same = [("exact", 5, 4), ("minhash", 4, 3), ("minhash", 7, 6)]
    twins = [judged[number] | {"reason": reason, "survivor": f"id-{of:03d}"} for reason, number, of in same]
    write_stage(home, "dedup", [judged[number] for number in range(22) if number not in (4, 5, 7)], twins)
    views = [{"id": name, "stage": name, "status": "build", "key": f"key-of-{name}", "digest": "d"} for name in INPUTS]
    views.append(
        {"id": "curate", "stage": "curate", "status": "failed", "error": "disk full", "key": "k", "digest": ""}
    )
    views.append({"id": "pretrain", "stage": "pretrain", "status": "waiting"})
    record = {"name": "small", "recipe": {}, "time": 1.7e9, "links": {}, "overrides": [], "stages": views}
    write_json(home / "lines" / "small.json", record)
    (home / "latest").write_text("small")
    return home


def mill(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | None:
    monkeypatch.setattr(sys, "argv", ["mill", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not isinstance(ended.value.code, str)
    return ended.value.code


@pytest.fixture
def look(line: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """`mill look ARGUMENTS` → what it prints; it must succeed."""

    def run(*arguments: str) -> str:
        assert not mill(monkeypatch, "look", *arguments)
        return capsys.readouterr().out

    return run


def test_random_rows_depend_on_the_seed_and_not_on_the_shards(line: Path, tmp_path: Path) -> None:
    stage = data_stage(None, "clean")
    rows = ledger(stage, Filters(), tmp_path)
    counts = reason_counts(rows)
    assert counts == {None: 22, "too_short": 6, "language_uncertain": 2}

    def drawn(seed: int) -> dict[str | None, list[str]]:
        found = chosen(ledger(data_stage(None, "clean"), Filters(), tmp_path), counts, 4, seed)
        return {reason: [row["id"] for row in rows] for reason, rows in found.items()}

    first = drawn(0)
    assert {reason: len(ids) for reason, ids in first.items()} == {None: 4, "too_short": 4, "language_uncertain": 2}
    assert first != drawn(1)
    everything = rows.filter(pl.col("reason") == "too_short").collect()["id"]
    assert first["too_short"] == sorted(everything, key=lambda each: pl.Series([each]).hash(0).item())[:4]
    for part in (stage.kept, stage.dropped_rows()):
        folder = part.paths[0].parent
        merged = pl.concat([pl.read_parquet(path) for path in part.paths]).reverse()
        shutil.rmtree(folder)
        write_rows(folder, merged.to_dicts(), shards=5)
    assert drawn(0) == first


def test_rows_that_a_first_border_misses_are_found() -> None:
    """All ids hash into the upper half: the border that counts on even hashes lies below them."""
    ids = pl.Series("id", [str(number) for number in range(4000)])
    upper = ids.filter(ids.hash(0) > 2**63)
    nothing = pl.lit(None, pl.String).alias("reason")
    frame = pl.DataFrame({"id": upper, "url": ""}).with_row_index("row").with_columns(nothing)
    found = chosen(frame.lazy(), {None: len(upper)}, 3, 0)[None]
    assert [row["id"] for row in found] == upper.gather(upper.hash(0).arg_sort()[:3]).to_list()


def test_groups_name_their_commonest_reason_and_sum_the_rest(line: Path, tmp_path: Path) -> None:
    rows = ledger(data_stage(None, "clean"), Filters(), tmp_path)
    hosts = grouped(rows, "host", "host", 2)
    assert [(group.name, group.rows_in, group.rows_out) for group in hosts.shown] == [
        ("a.example", 19, 13), ("sub.b.example", 10, 8)
    ]  # fmt: skip
    assert (hosts.shown[0].reason, hosts.shown[0].reason_rows) == ("too_short", 4)
    assert (hosts.num_rest, hosts.rest.rows_in, hosts.rest.rows_out) == (1, 1, 1)


def test_texts_are_those_of_their_rows(line: Path) -> None:
    shards = shards_of(line / "artifacts" / "digest-of-clean" / "documents")
    whole = shards.rows(with_text=True).collect()
    rows = [20, 0, 7, 7, 13]
    assert shards.texts(rows) == [whole["text"][row] for row in rows]


def test_filters_count_what_they_select(look: Any) -> None:
    def counted(*arguments: str) -> tuple[int, int, dict[str, int]]:
        found = json.loads(look("clean", "--json", *arguments))
        return found["rows_in"], found["rows_out"], found["reasons"]

    assert counted("--domain", "b.example") == (10, 8, {"too_short": 2})
    assert counted("--reason", "language_uncertain") == (2, 0, {"language_uncertain": 2})
    assert counted("--find", "LINE OF 2") == (11, 3, {"too_short": 6, "language_uncertain": 2})
    assert counted("--find", "example/13") == (1, 1, {})
    assert counted("--language", "en", "--domain", "sub.b.example", "--find", "of 24")[2] == {"too_short": 1}


def test_text_is_shown_from_where_something_was_found_in_it(line: Path, look: Any) -> None:
    long = page(0, text="word " * 2_000 + "the Needle and what follows")
    write_stage(line, "dedup", [long | {"language": "en", "language_score": 0.9}], [])
    (found,) = json.loads(look("dedup", "--find", "needle", "--json"))["kept"]
    assert (found["skipped"], found["left_out"]) == (2_000 * 5 + 4 - 60, 0)
    assert found["text"].endswith("the Needle and what follows")
    assert json.loads(look("dedup", "--find", "page 0", "--json"))["kept"][0]["skipped"] == 0


def test_comparison_marks_what_went_and_what_was_replaced() -> None:
    same = "\n".join(f"line {number} is as it was" for number in range(9))
    before = f"{same}\n\n  Menu \nwrite to a.b@example.org now\nlast"
    lines = compared(before, f"{same}\nwrite to <email> now\nlast").lines
    assert [line.change for line in lines] == ["fold", "same", "same", "removed", "edited", "same"]
    assert lines[0].folded == 7
    assert lines[3].pieces == (("removed", "Menu"),)
    assert "".join(text for change, text in lines[4].pieces if change != "removed") == "write to <email> now"
    assert "".join(text for change, text in lines[4].pieces if change != "added") == "write to a.b@example.org now"
    assert not compared(before, before.replace("\n\n", "\n")).differs


@pytest.mark.parametrize(
    ("old", "new", "is_edited"),
    [
        ("Mail: a@example.org", "Mail: <email>", True),
        ("+44 20 7946 0958", "<phone>", True),
        ("Call 555-0100 or 555-0101 today", "Call <phone> or <phone> today", True),
        ("About us", "<phone>", False),
        ("one of these has other words", "this line was not there before", False),
        ("most of these words are the same", "most of those words are the same", True),
    ],
)
def test_removed_and_added_lines_are_one_edited_line_if_they_share_enough(old: str, new: str, is_edited: bool) -> None:
    changes = [line.change for line in compared(f"same\n{old}", f"same\n{new}").lines]
    assert changes == (["same", "edited"] if is_edited else ["same", "removed", "added"])


def test_comparison_of_huge_texts_is_bounded() -> None:
    before = "\n".join(f"sentence {number} of a book" for number in range(50_000))
    kept = [line for number, line in enumerate(before.splitlines()) if number % 10]
    found = compared(before, "\n".join(kept))
    assert found.beyond > 1_000_000
    assert {line.change for line in found.lines} <= {"same", "removed", "fold"}, "where it is cut is no change"
    assert len(found.lines) <= MAX_LINES


def test_control_characters_are_shown_and_not_sent() -> None:
    assert visible("a\x1b[2J\u202eb\r\nc\td") == "a⟨U+001B⟩[2J⟨U+202E⟩b\nc\td"


def test_page_shows_the_stage_and_nothing_that_a_text_brings_along(look: Any) -> None:
    html = Path(look("clean", "--examples", "30").strip()).read_text(encoding="utf-8")
    for title in ("Funnel", "Kept", "Before and after", "Dropped", "Borderline"):
        assert f">{title}</h2>" in html
    assert "mill look clean --recipe=small --seed=0 --examples=30" in html
    assert "<del>me@example.org</del><ins>&lt;email&gt;</ins>" in html
    assert "<del>Menu</del>" in html
    assert "&lt;script&gt;" in html and "<script" not in html
    assert "\x1b" not in html and "\u202e" not in html
    assert 'href="javascript' not in html
    assert not re.search(r'(?:src|href)="(?!#|https?://(?:[a-z]+\.)?[ab]\.example/)', html), "no file, no network"
    assert "Of 22 random kept documents, 1 went out with other lines" in html


def test_borderline_documents_are_the_nearest_on_each_side(look: Any) -> None:
    found = json.loads(look("clean", "--examples", "2", "--json"))["borderline"]
    assert found["limit"] == 0.5
    assert [row["id"] for row in found["above"]] == ["id-000", "id-001"]
    assert [row["id"] for row in found["below"]] == ["id-028", "id-029"]
    assert json.loads(look("dedup", "--json"))["borderline"] is None


def test_clusters_reach_over_all_levels(look: Any) -> None:
    found = json.loads(look("dedup", "--json"))["clusters"]
    assert (found["num_clusters"], found["num_rows"]) == (3, 3)
    members = {
        cluster["survivor"]["id"]: [member["id"] for member, _ in cluster["members"]] for cluster in found["random"]
    }
    assert members == {"id-003": ["id-004", "id-005"], "id-006": ["id-007"]}


def test_document_is_followed_to_where_it_was_dropped(look: Any) -> None:
    by_id = json.loads(look("clean", "--id", "id-005", "--json"))["traces"]
    assert by_id == json.loads(look("ingest", "--id", "https://a.example/5", "--json"))["traces"]
    assert [(step["stage"], step["fate"]) for step in by_id[0]["steps"]] == [
        ("ingest", "kept"), ("clean", "kept"), ("dedup", "dropped")
    ]  # fmt: skip
    assert by_id[0]["steps"][2]["survivor"]["id"] == "id-003"
    assert by_id[0]["verdict"] == "Dropped by dedup: exact, as a duplicate of https://sub.b.example/3."
    (kept,) = json.loads(look("clean", "--id", "id-001", "--json"))["traces"]
    assert kept["verdict"] == "Kept by dedup, the last data stage that is finished; curate is not built yet."
    assert kept["steps"][1]["changes"] and not kept["steps"][2]["changes"]
    (failed,) = json.loads(look("clean", "--id", "https://a.example/900", "--json"))["traces"]
    assert failed["verdict"] == "Dropped by ingest: http_404 (x)."
    html = Path(look("clean", "--id", "id-025").strip()).read_text(encoding="utf-8")
    assert "Dropped by clean: too_short." in html


def test_terminal_output_reads_without_colours(look: Any) -> None:
    text = look("clean", "--text", "--examples", "30")
    assert "    - Menu\n" in text
    assert "[-me@example.org-]{+<email>+}" in text
    assert "too_short: 6 (20.0 %)" in text
    assert "\x1b" not in text
    assert "⟨U+001B⟩[31mred" in text
    trace = look("dedup", "--id", "id-005", "--text")
    assert "against its survivor https://sub.b.example/3" in trace
    assert "~ First line of [-3-]{+5+}." in trace


def test_without_its_dropped_rows_a_stage_says_so_and_shows_the_rest(line: Path, look: Any) -> None:
    shutil.rmtree(line / "artifacts" / "digest-of-clean" / "dropped")
    html = Path(look("clean").strip()).read_text(encoding="utf-8")
    assert "`mill rerun clean` makes them again" in html
    assert "too_short 6" in html
    (gone,) = json.loads(look("clean", "--id", "id-025", "--json"))["traces"]
    assert gone["verdict"] == "Dropped by clean; the reason is no longer stored."


def test_stage_that_dropped_nothing(line: Path, look: Any) -> None:
    write_stage(line, "dedup", [page(number) for number in range(3)], [])
    assert "No row was dropped." in Path(look("dedup").strip()).read_text(encoding="utf-8")
    assert json.loads(look("dedup", "--json"))["clusters"] is None


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["claen"], 2, "did you mean 'clean'?"),
        (["pretrain"], 2, "`mill show pretrain`"),
        (["curate"], 3, "(failed: disk full)"),
        (["clean", "--recipe", "other"], 3, "no run of recipe other"),
        (["clean", "--reason", "too_shrot"], 2, "did you mean 'too_short'?"),
        (["clean", "--id", "id-999"], 3, "no row with the id or address 'id-999'"),
        (["clean", "--id", "id-001", "--domain", "x"], 2, "leave out --domain"),
        (["clean", "--domain", "example.org"], 3, "none of the 30 rows that clean met fits --domain 'example.org'"),
        (["ingest", "--language", "en"], 3, "ingest does not know languages"),
        (["clean", "--examples", "0"], 2, "--examples"),
    ],
)
def test_mistakes_are_told_with_what_to_do(
    line: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str], code: int, message: str,
) -> None:  # fmt: skip
    assert mill(monkeypatch, "look", *arguments) == code
    assert message in " ".join(capsys.readouterr().err.split())


def test_pruned_rows_cannot_be_asked_for(
    line: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(line / "artifacts" / "digest-of-clean" / "dropped")
    assert mill(monkeypatch, "look", "clean", "--reason", "too_short") == 3
    assert "no longer in its artifact" in " ".join(capsys.readouterr().err.split())
    assert isinstance(data_stage(None, "clean"), DataStage)
