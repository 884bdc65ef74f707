"""Each level on its own, through the function for one table."""

import pyarrow as pa
import pytest

from modelmill.tasks.dedup.config import Config, LineRule, MinHash
from modelmill.tasks.dedup.rows import dedup_rows

from .conftest import SCHEMA, document, prose

NO_LINES = LineRule(rule="none")
NO_MINHASH = MinHash(enabled=False)
CHINESE = (
    "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁律吕调阳云腾致雨露结为霜"
    "金生丽水玉出昆冈剑号巨阙珠称夜光果珍李柰菜重芥姜海咸河淡鳞潜羽翔"
)


def deduplicated(
    rows: list[dict[str, str | None]], config: Config
) -> tuple[dict[str, str], dict[str, tuple[str, str]]]:
    """Texts of the kept rows, and reason and survivor of the dropped, by id."""
    kept, dropped = dedup_rows(pa.Table.from_pylist(rows, schema=SCHEMA), config)
    assert kept.column_names == SCHEMA.names
    gone = {row["id"]: (row["reason"], row["survivor"]) for row in dropped.to_pylist()}
    return {row["id"]: row["text"] for row in kept.to_pylist()}, gone


def test_the_newest_page_of_an_address_is_kept() -> None:
    rows = [
        document("old", prose(1), "https://a.org/", "2024-01-01T00:00:00Z"),
        document("new", prose(2), "https://a.org/", "2025-06-01T00:00:00Z"),
        document("undated", prose(3), "https://a.org/"),
        document("other", prose(4), "https://b.org/"),
        document("none-1", prose(5)),
        document("none-2", prose(6), ""),
    ]
    kept, dropped = deduplicated(rows, Config(lines=NO_LINES, minhash=NO_MINHASH))
    assert list(kept) == ["new", "other", "none-1", "none-2"]
    assert dropped == {"old": ("url", "new"), "undated": ("url", "new")}
    kept, _ = deduplicated(rows, Config(url=False, lines=NO_LINES, minhash=NO_MINHASH))
    assert len(kept) == 6


def test_equal_after_normalisation_is_equal() -> None:
    rows = [
        document("plain", "Cafe\u0301 au lait, at the  station"),
        document("longest", "CAFÉ au lait - at   the\n\nStation!!!"),
        document("different", "cafe au lait at the station"),
        document("zh-1", "今天天气，很好。"),
        document("zh-2", "今天天气很好！"),
    ]
    kept, dropped = deduplicated(rows, Config(lines=NO_LINES, minhash=NO_MINHASH))
    assert list(kept) == ["longest", "different", "zh-1"]
    assert dropped == {"plain": ("exact", "longest"), "zh-2": ("exact", "zh-1")}


def test_the_smallest_id_survives_among_equals() -> None:
    rows = [document(name, prose(1)) for name in ("c", "a", "b")]
    for config in (Config(minhash=NO_MINHASH), Config(exact=False)):
        kept, dropped = deduplicated(rows, config)
        assert list(kept) == ["a"]
        assert {survivor for _, survivor in dropped.values()} == {"a"}


def with_line(seed: int, line: str) -> str:
    head, tail = prose(seed, 60), prose(seed + 1000, 60)
    return f"{head}\n\n{line}\n{tail}"


def test_llama_removes_a_line_that_is_more_frequent_than_allowed() -> None:
    rule = LineRule(rule="llama", max_per_bucket=6)
    config = Config(lines=rule, minhash=NO_MINHASH)
    six = [document(f"six-{i}", with_line(i, "Subscribe to our newsletter")) for i in range(6)]
    seven = [document(f"seven-{i}", with_line(50 + i, f"Posted on {i} May 2024!")) for i in range(7)]
    kept, dropped = deduplicated(six + seven, config)
    assert not dropped
    assert all("newsletter" in kept[f"six-{i}"] for i in range(6))
    # Case, punctuation and digits do not make a line another one (ccNet); the blank lines around it stay.
    assert all("Posted" not in kept[f"seven-{i}"] for i in range(7))
    assert kept["seven-0"] == f"{prose(50, 60)}\n\n{prose(1050, 60)}"


def test_llama_counts_within_buckets() -> None:
    rule = LineRule(rule="llama", max_per_bucket=6, bucket_documents=2)
    rows = [document(f"d-{i}", with_line(i, "Subscribe to our newsletter")) for i in range(12)]
    kept, _ = deduplicated(rows, Config(lines=rule, minhash=NO_MINHASH))
    assert sum("newsletter" in text for text in kept.values()) == 12


def test_dots_keeps_the_first_occurrences_at_the_edges_only() -> None:
    rule = LineRule(rule="dots", max_occurrences=3, edge_lines=2)
    rows = [document(f"d-{i}", f"Menu | Home\n{prose(i)}\n---\nAll rights reserved") for i in range(8)]
    rows += [document(f"m-{i}", f"{prose(20 + i, 40)}\nMenu | Home\n{prose(40 + i, 40)}") for i in range(8)]
    kept, dropped = deduplicated(rows, Config(lines=rule, minhash=NO_MINHASH))
    assert not dropped
    edges = [text for name, text in kept.items() if name.startswith("d-")]
    assert sum("Menu" in text for text in edges) == 3
    assert sum("reserved" in text for text in edges) == 3
    assert sum("Menu" in text for name, text in kept.items() if name.startswith("m-")) == 8


@pytest.mark.parametrize("rule", ["llama", "dots"])
def test_a_document_of_nothing_but_repeated_lines_is_dropped(rule: str) -> None:
    lines = LineRule.model_validate({"rule": rule, "max_per_bucket": 2, "max_occurrences": 1})
    rows = [
        document("a", "Home\nAbout"),
        document("b", "Home\n\nAbout\nHome"),
        document("c", f"About\nHome\n{prose(1)}"),
    ]
    kept, dropped = deduplicated(rows, Config(lines=lines, minhash=NO_MINHASH))
    assert "c" in kept
    assert len(dropped) == 2 if rule == "llama" else len(dropped) == 1
    assert {reason for reason, _ in dropped.values()} == {"lines"}


def edited(text: str, position: int, replacement: str = "changed") -> str:
    words = text.split(" ")
    words[position] = replacement
    return " ".join(words)


def test_near_duplicates_are_one_cluster_with_the_longest_as_survivor() -> None:
    text = prose(7, 400)
    rows = [
        document("a", text),
        document("b", edited(text, 50)),
        document("c", text + " and more"),
        document("d", prose(8)),
    ]
    kept, dropped = deduplicated(rows, Config(lines=NO_LINES))
    assert list(kept) == ["c", "d"]
    assert dropped == {"a": ("minhash", "c"), "b": ("minhash", "c")}


# jieba imports pkg_resources, which setuptools has deprecated.
@pytest.mark.filterwarnings("ignore:pkg_resources is deprecated")
@pytest.mark.filterwarnings("ignore:Deprecated call to `pkg_resources")
@pytest.mark.parametrize("unspaced", ["characters", "jieba"])
def test_chinese_near_duplicates(unspaced: str) -> None:
    text = CHINESE * 3
    other = "".join(reversed(text))
    rows = [document("a", text), document("b", text.replace("巨阙", "名刀")[:-5]), document("c", other)]
    config = Config(lines=NO_LINES, minhash=MinHash.model_validate({"unspaced_scripts": unspaced, "rows": 4}))
    kept, dropped = deduplicated(rows, config)
    assert list(kept) == ["a", "c"]
    assert dropped == {"b": ("minhash", "a")}


def test_texts_without_words_are_not_near_duplicates_of_each_other() -> None:
    rows = [document("a", "!!!"), document("b", "..."), document("c", ""), document("d", "word")]
    kept, _ = deduplicated(rows, Config(exact=False, lines=NO_LINES))
    assert list(kept) == ["a", "b", "c", "d"]


def test_tables_need_only_id_and_text() -> None:
    table = pa.table({"text": ["Same text.", "same text", "other"], "id": ["2", "1", "3"], "extra": [1, 2, 3]})
    kept, dropped = dedup_rows(table, Config())
    assert kept.to_pylist() == [{"text": "Same text.", "id": "2", "extra": 1}, {"text": "other", "id": "3", "extra": 3}]
    assert dropped.select(["id", "extra", "reason", "survivor"]).to_pylist() == [
        {"id": "1", "extra": 2, "reason": "exact", "survivor": "2"}
    ]
    kept, dropped = dedup_rows(table.slice(0, 0), Config())
    assert kept.num_rows == dropped.num_rows == 0
