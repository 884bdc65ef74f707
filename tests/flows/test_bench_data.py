"""`mill bench data`: its input, its steps in processes of their own, what it says of peers and of failures."""

import io
import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from modelmill.flows import cli
from modelmill.flows.benches.data import _with_megabytes, bench_data, chosen_steps
from modelmill.flows.benches.data_inputs import documentation, prepared_inputs, sampled_texts
from modelmill.flows.benches.extraction import measure, scores, word_f1
from modelmill.flows.benches.measured import Measured, peer
from modelmill.flows.benches.one_step import STEPS
from modelmill.flows.benches.tables import quality_table, rates_table, with_ratios
from modelmill.tasks.errors import InputError, MillError, RecipeError
from modelmill.tasks.ingest.extractor import EXTRACTORS

TEXTS = ["The sluice is closed at night.", "Nobody saw the heron leave the pond.", "A third text, longer than others."]


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    path = tmp_path / "documents.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*TEXTS, ""]))
    return path


def test_steps_are_measured_in_the_order_of_the_line_and_wrong_ones_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert chosen_steps(None) == list(STEPS)
    assert chosen_steps("dedup, archives") == ["archives", "dedup"]
    with pytest.raises(RecipeError, match="no step named"):
        chosen_steps(",")
    monkeypatch.setattr(sys, "argv", ["mill", "bench", "data", "--steps", "dedup,polish"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert "unknown step 'polish'" in message
    assert all(step in message for step in STEPS)


def test_a_failed_step_is_told_and_the_others_are_measured(tmp_path: Path, documents: Path) -> None:
    pages, output = tmp_path / "pages.parquet", tmp_path / "figures.json"
    pq.write_table(pa.table({"html": pa.array([], pa.binary())}), pages)
    console = Console(width=150, record=True, file=io.StringIO())
    with pytest.raises(MillError, match="1 of 2 steps failed") as failure:
        bench_data(console, "extraction,safety", pages, documents, 1.0, output)
    assert "holds no pages" in str(failure.value)
    figures = json.loads(output.read_text())
    assert [(each["step"], bool(each["error"])) for each in figures["steps"]] == [
        ("extraction", True),
        ("safety", False),
    ]
    assert figures["input"] == {"pages": 0, "documents": 3, "megabytes": 0.0}
    assert figures["machine"]["cores"] >= 1
    assert figures["versions"]["resiliparse"]
    assert {row["bench"] for row in figures["rows"]} == {"safety"}
    score = figures["rows"][0]
    assert score["unit"] == "documents/s"
    assert score["megabytes_per_second"] == pytest.approx(score["rate"] * sum(map(len, TEXTS)) / 3 / 1e6, rel=1e-6)
    assert 0.9 < score["quality"]["auc"] <= 1
    printed = console.export_text()
    assert "safety score" in printed
    assert "auc 0.99" in printed


def test_the_place_of_the_output_is_checked_first(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        bench_data(Console(quiet=True), "safety", None, None, 1.0, tmp_path / "nowhere" / "figures.json")


def test_texts_are_a_random_sample_of_a_file(tmp_path: Path, documents: Path) -> None:
    assert sorted(sampled_texts(documents, 1.0)) == sorted(TEXTS)
    assert sampled_texts(documents, 1e-5) == sampled_texts(documents, 1.0)[:1]
    empty = tmp_path / "empty.jsonl"
    empty.write_text('{"text": ""}\n')
    with pytest.raises(InputError, match="holds no text"):
        sampled_texts(empty, 1.0)
    pages = tmp_path / "pages.parquet"
    pq.write_table(pa.table({"html": [b"<p>one</p>", b"<p>two</p>"]}), pages)
    inputs = prepared_inputs(tmp_path, ("pages", "documents"), pages, documents, 1.0)
    assert (inputs.pages, inputs.num_pages, inputs.num_documents) == (pages, 2, 3)
    assert pq.read_table(inputs.documents)["text"].to_pylist() == sampled_texts(documents, 1.0)
    assert prepared_inputs(tmp_path, ("pages",), pages, None, 1.0).num_documents == 0


def test_documentation_of_this_machine_is_the_input_without_files() -> None:
    pages, texts = documentation(0.001, ("json",))
    assert len(pages) >= len(texts) > 2
    assert all(page.startswith(b"<!DOCTYPE html>") for page in pages)
    assert any("JSONDecodeError" in text for text in texts)


@pytest.mark.filterwarnings("ignore:SOCKS support")  # urllib3's, when trafilatura is imported
def test_extractors_are_scored_against_labels(tmp_path: Path) -> None:
    text = " ".join(
        f"Sentence number {number} of the article is about a canal, its locks and boats." for number in range(9)
    )
    html = f"<html><body><nav><a href='/'>Home page</a></nav><article><p>{text}</p></article></body></html>"
    row = {
        "html": html.encode(), "main_content": text, "page_type": "article",
        "must_have": ["of the article", "no such words"], "must_not": ["Home page"],
    }  # fmt: skip
    path = tmp_path / "pages.parquet"
    pq.write_table(pa.Table.from_pylist([row]), path)
    found = measure(path)
    assert [each.tool for each in found] == list(EXTRACTORS)
    for each in found:
        assert each.rate and each.unit == "pages/s"
        assert each.quality["word_f1"] == each.quality["word_f1_article"] == pytest.approx(1, abs=0.02)
        assert each.quality["snippets_kept"] == 0.5
        assert each.quality["snippets_leaked"] == 0
    pq.write_table(pa.table({"html": [html]}), path)
    assert [list(each.quality) for each in measure(path)] == [["html_megabytes_per_second"]] * len(EXTRACTORS)


def test_words_count_as_often_as_they_occur_and_snippets_whatever_the_white_space() -> None:
    assert word_f1("One two TWO", "two two three") == pytest.approx(2 / 3)
    assert word_f1("", "!") == 1
    assert word_f1("", "word") == 0
    rows = [
        {"main_content": "a b", "page_type": "forum", "must_have": ["a  b"], "must_not": ["x"]},
        {"main_content": "c", "page_type": "article", "must_have": ["c", "d"], "must_not": []},
    ]
    assert scores(["a\nb x", "e"], rows) == {
        "word_f1": pytest.approx(0.4),
        "snippets_kept": pytest.approx(1 / 3),
        "snippets_leaked": 1,
        "word_f1_article": 0,
        "word_f1_forum": pytest.approx(0.8),
    }


def test_rates_stand_beside_ours_of_the_same_step_and_unit() -> None:
    rows = [
        {"step": "a", "tool": "modelmill", "rate": 50.0, "unit": "MB/s", "quality": {}, "note": ""},
        {"step": "a", "tool": "peer", "rate": 5.0, "unit": "MB/s", "quality": {"kept": 0.5}, "note": "of last year"},
        {"step": "a", "tool": "absent", "rate": None, "unit": "", "quality": {}, "note": "not installed"},
        {"step": "b", "tool": "peer", "rate": 7.0, "unit": "pages/s", "quality": {}, "note": ""},
    ]  # fmt: skip
    found = _with_megabytes(with_ratios(rows), "archives", None)
    assert [row["of_ours"] for row in found] == [1, 0.1, None, None]
    assert [row["megabytes_per_second"] for row in found] == [50, 5, None, None]
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(rates_table(found), quality_table(found))
    lines = [" ".join(line.split()) for line in console.export_text().splitlines()]
    assert "peer 5 MB/s 5 0.1 of last year" in lines
    assert "absent not installed" in lines
    assert "a peer kept 0.5" in lines


def test_a_peer_that_is_missing_or_fails_is_a_note() -> None:
    def missing() -> Measured:
        raise ImportError("No module named 'absent'")

    def broken() -> Measured:
        raise TypeError("strings must be encoded")

    assert peer("s", "t", "absent", missing).note == "not installed: pip install absent"
    assert peer("s", "t", "absent", broken).note == "failed: TypeError: strings must be encoded"
    assert peer("s", "t", "absent", lambda: Measured("s", "t", 2.0)).rate == 2.0
