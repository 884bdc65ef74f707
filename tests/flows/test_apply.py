"""`mill apply` on a user's own files, through the function that the command calls."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastwarc.warc import ArchiveIterator

from modelmill.flows.apply import apply_step, step_config
from modelmill.tasks.errors import InputError, MillError, RecipeError

SENTENCES = (
    "The river that runs through the old town has been crossed by seven bridges since the middle ages.",
    "Most of them were built of stone, with narrow arches, and two have survived every flood to this day.",
    "In the winter of the great frost, merchants held their market on the ice for more than six weeks.",
    "Engineers have since deepened the channel, so that larger boats can reach the harbour with their goods.",
    "Visitors who come to the museum learn how the tolls of the bridges paid for the walls of the city.",
)
GOOD = "\n".join(SENTENCES)
ROWS: list[dict[str, Any]] = [
    {"id": "a", "text": GOOD, "meta": {"n": [1, {"x": None}]}, "tag": 1},
    {"id": "b", "text": "Too short.", "url": "https://example.org/b", "tag": "two"},
    {"id": "c", "url": "https://pornhub.com/c", "text": GOOD + "\nOne more line of text that ends here.", "tag": None},
    {"id": 4, "url": None, "text": GOOD + "\nCall 212-555-0142 to ask for the hours.", "tag": 2.5},
]


def write_lines(path: Path, rows: list[Any]) -> Path:
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    content = path.read_bytes()
    return [json.loads(line) for line in (gzip.decompress(content) if path.suffix == ".gz" else content).splitlines()]


def test_clean_keeps_all_fields_and_says_what_it_dropped(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl.gz", ROWS)
    report = apply_step("clean", source, tmp_path / "out.jsonl.gz", {"c4": {"enabled": False}})
    kept, dropped = read_lines(tmp_path / "out.jsonl.gz"), read_lines(tmp_path / "out.dropped.jsonl.gz")
    assert [row["id"] for row in kept] == ["a", 4]
    assert {key: kept[0][key] for key in ROWS[0]} == ROWS[0]
    assert kept[0]["language"] == "en"
    assert kept[1]["text"].endswith("Call <phone> to ask for the hours.")
    assert {row["id"]: row["reason"] for row in dropped} == {"b": "gopher_too_few_words", "c": "url_blocked_domain"}
    assert [row["text"] for row in dropped] == ["Too short.", ROWS[2]["text"]]
    assert (report.rows_in, report.rows_out) == (4, 2)
    assert report.dropped == {"gopher_too_few_words": 1, "url_blocked_domain": 1}
    assert report.as_dict()["rows_per_second"] > 0


def test_dedup_finds_duplicates_across_the_file(tmp_path: Path) -> None:
    rows = [{"id": str(i), "text": f"{i % 3} {GOOD}" if i % 2 else f"unique {i} " * 20, "n": i} for i in range(12)]
    source = write_lines(tmp_path / "in.jsonl", rows)
    report = apply_step("dedup", source, tmp_path / "out.jsonl", {"minhash": {"enabled": False}})
    kept, dropped = read_lines(tmp_path / "out.jsonl"), read_lines(tmp_path / "out.dropped.jsonl")
    # The smallest id survives, as a string: "11" before "5".
    assert [row["n"] for row in kept] == [0, 1, 2, 3, 4, 6, 8, 10, 11]
    assert all(row == rows[row["n"]] for row in kept)
    assert [(row["n"], row["reason"], row["survivor"]) for row in dropped] == [
        (5, "exact", "11"),
        (7, "exact", "1"),
        (9, "exact", "3"),
    ]
    assert report.dropped == {"exact": 3}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.dropped.jsonl", "out.jsonl"]


@pytest.mark.parametrize("step", ["clean", "dedup"])
def test_workers_and_formats_do_not_change_the_result(tmp_path: Path, step: str) -> None:
    rows = [
        {"id": str(i), "url": f"https://e.org/{i}", "text": f"{SENTENCES[i % 5]} {i // 2}\n{GOOD}"} for i in range(40)
    ]
    source = write_lines(tmp_path / "in.jsonl", rows)
    first = apply_step(step, source, tmp_path / "one.jsonl")
    second = apply_step(step, source, tmp_path / "two.jsonl", {}, workers=2)
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
    assert (tmp_path / "one.dropped.jsonl").read_bytes() == (tmp_path / "two.dropped.jsonl").read_bytes()
    assert first.dropped == second.dropped
    apply_step(step, source, tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet").to_pylist() == [
        pytest.approx(row) for row in read_lines(tmp_path / "one.jsonl")
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    apply_step(step, tmp_path / "in.parquet", tmp_path / "three.jsonl")
    assert [row["text"] for row in read_lines(tmp_path / "three.jsonl")] == [
        row["text"] for row in read_lines(tmp_path / "one.jsonl")
    ]


def test_language_adds_two_fields(tmp_path: Path) -> None:
    texts = [SENTENCES[0], "我们的学校在城里，是一座很大的学校，有很多学生。", "", "1 2 3"]
    source = write_lines(tmp_path / "in.jsonl", [{"text": text} for text in texts])
    report = apply_step("language", source, tmp_path / "out.jsonl")
    rows = read_lines(tmp_path / "out.jsonl")
    assert [row["language"] for row in rows] == ["en", "zh", "und", "und"]
    assert all(0 <= row["language_score"] <= 1 for row in rows)
    assert report.dropped_output is None
    assert not (tmp_path / "out.dropped.jsonl").exists()


PAGE = "<html><head><title>T</title></head><body><main><p>" + "</p><p>".join(SENTENCES) + "</p></main></body></html>"


def test_extract_reads_html_rows(tmp_path: Path) -> None:
    rows = [{"id": "a", "url": "https://e.org/", "html": PAGE}, {"id": "b", "url": "https://e.org/b", "html": ""}]
    report = apply_step("extract", write_lines(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl")
    kept = read_lines(tmp_path / "out.jsonl")
    assert [sorted(row) for row in kept] == [["id", "text", "url"]]
    assert all(sentence in kept[0]["text"] for sentence in SENTENCES)
    assert read_lines(tmp_path / "out.dropped.jsonl") == [
        {"id": "b", "url": "https://e.org/b", "reason": next(iter(report.dropped))}
    ]


def warc_record(url: str, html: str, status: str = "200 OK") -> bytes:
    body = html.encode()
    http = f"HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {len(body)}\r\n\r\n"
    block = http.encode() + body
    head = (
        f"WARC/1.1\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:{len(url):08d}-0000-0000-0000-000000000000>\r\n"
        f"WARC-Date: 2026-01-01T00:00:00Z\r\nWARC-Target-URI: {url}\r\n"
        f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(block)}\r\n\r\n"
    )
    return gzip.compress(head.encode() + block + b"\r\n\r\n")


def test_extract_reads_archives(tmp_path: Path) -> None:
    source = tmp_path / "in.warc.gz"
    source.write_bytes(warc_record("https://e.org/a", PAGE) + warc_record("https://e.org/bb", "gone", "404 Not Found"))
    with source.open("rb") as file:
        assert sum(1 for _ in ArchiveIterator(file)) == 2
    report = apply_step("extract", source, tmp_path / "out.parquet")
    assert (report.rows_in, report.rows_out, report.dropped) == (2, 1, {"http_status": 1})
    assert pq.read_table(tmp_path / "out.parquet")["url"].to_pylist() == ["https://e.org/a"]
    assert pq.read_table(tmp_path / "out.dropped.parquet")["reason"].to_pylist() == ["http_status"]


def test_tokenize_adds_token_ids(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    (tmp_path / "tokenizer").mkdir()
    tokenizer.save(str(tmp_path / "tokenizer" / "tokenizer.json"))
    source = write_lines(tmp_path / "in.jsonl", [{"text": "aba", "k": [1]}, {"text": ""}])
    apply_step("tokenize", source, tmp_path / "out.jsonl", {"tokenizer": str(tmp_path / "tokenizer")})
    assert read_lines(tmp_path / "out.jsonl") == [
        {"text": "aba", "k": [1], "token_ids": [2, 0]}, {"text": "", "token_ids": []}
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("step", "name", "content", "message"),
    [
        ("clean", "in.jsonl", b'{"id": "a", "text": "x"}\n\nnot json\n', "line 3 is not JSON"),
        ("clean", "in.jsonl", b'{"id": "a"}\n', "line 1 has no text; it has id"),
        ("clean", "in.jsonl", b"[1]\n", "line 1 is a list"),
        ("clean", "in.jsonl", b'{"id": "a", "text": 5}\n', "line 1: text is a int"),
        ("clean", "in.jsonl", b'{"id": "a", "text": "\xff"}\n', "line 1 is not JSON"),
        ("clean", "in.jsonl", b"\n", "holds no rows"),
        ("dedup", "in.jsonl", b"", "holds no rows"),
        ("clean", "in.jsonl.gz", gzip.compress(b'{"id": "a", "text": "x"}\n' * 99, mtime=0)[:-9], "damaged after line"),
        ("clean", "in.parquet", b"PAR1 but not really", "cannot be read as Parquet"),
        ("clean", "in.csv", b"id,text\n", "cannot tell the format"),
        ("language", "in.warc", b"", "cannot tell the format"),
        ("extract", "in.txt", b"", "cannot tell the format"),
    ],
)
def test_bad_input_is_one_clear_message(tmp_path: Path, step: str, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        apply_step(step, tmp_path / name, tmp_path / "out.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_bad_calls_are_refused(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", ROWS)
    with pytest.raises(RecipeError, match="unknown step 'wash'"):
        apply_step("wash", source, tmp_path / "out.jsonl")
    with pytest.raises(RecipeError, match="unknown key 'lannguages'; did you mean 'languages'"):
        apply_step("clean", source, tmp_path / "out.jsonl", {"lannguages": ["en"]})
    with pytest.raises(InputError, match="no file"):
        apply_step("clean", tmp_path / "missing.jsonl", tmp_path / "out.jsonl")
    with pytest.raises(InputError, match="cannot tell the format"):
        apply_step("clean", source, tmp_path / "out.txt")
    with pytest.raises(InputError, match="would be overwritten"):
        apply_step("clean", source, source)
    with pytest.raises(InputError, match="no tokenizer"):
        apply_step("tokenize", source, tmp_path / "out.jsonl", {"tokenizer": str(tmp_path)})
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_row_that_does_not_fit_parquet_is_named(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", [{"text": "a", "n": 1}, {"text": "b", "n": "x"}])
    with pytest.raises(InputError, match="write JSONL instead"):
        apply_step("language", source, tmp_path / "out.parquet")


def test_half_characters_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(b'{"text": "ok \\ud800", "k": "\\udc00"}\n')
    apply_step("language", tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert read_lines(tmp_path / "out.jsonl")[0]["k"] == "\udc00"


def test_settings_come_from_defaults_recipe_and_overrides(tmp_path: Path, home: Path) -> None:
    config = step_config("clean", None, ["clean.gopher.min_words=3", "clean.languages=[en]"], home)
    assert config == {"gopher": {"min_words": 3}, "languages": ["en"]}
    recipe = tmp_path / "own.yaml"
    recipe.write_text(
        "line: [ingest, clean]\n"
        "ingest:\n  extractor: trafilatura\n  sources: [{name: t, kind: text, paths: [a.txt]}]\n"
        "clean:\n  min_language_score: 0.5\n"
    )
    assert step_config("clean", str(recipe), [], home)["min_language_score"] == 0.5
    extract = step_config("extract", str(recipe), ["extract.limits.nesting=9"], home)
    assert (extract["extractor"], extract["limits"]["nesting"]) == ("trafilatura", 9)
    assert "sources" not in extract
    for step, overrides in (("dedup", []), ("clean", ["wash.x=1"])):
        with pytest.raises(RecipeError, match="no stage"):
            step_config(step, str(recipe), overrides, home)
    assert step_config("tokenize", None, ["tokenize.tokenizer=folder"], home) == {"tokenizer": "folder"}
    with pytest.raises(MillError, match="no run has made a tokenizer"):
        step_config("tokenize", None, [], home)
