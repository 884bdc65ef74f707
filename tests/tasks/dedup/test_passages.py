"""Sentences and paragraphs that near-repeat across documents: where they are cut, which go, which documents go."""

from itertools import pairwise

import pyarrow as pa
import pytest

from modelmill.tasks.dedup.config import Config, LineRule, MinHash, Passages
from modelmill.tasks.dedup.passages import cut_passages
from modelmill.tasks.dedup.rows import dedup_rows
from modelmill.tasks.text.flat import characters

from .conftest import document, prose


def pieces(text: str, unit: str) -> list[str]:
    bounds, offsets = cut_passages(characters(pa.array(["", text])), unit)
    assert offsets.tolist() == [0, 0, len(bounds) - 1]
    return [text[a:b] for a, b in pairwise(bounds)]


def test_where_passages_are_cut() -> None:
    text = 'It cost 3.14 euros. "Why?" he said.\n\n  "No!"  Then (so) it ended... Yes'
    assert pieces(text, "sentences") == [
        *("It cost 3.14 euros. ", '"Why?" ', "he said.", "\n\n  ", '"No!"  ', "Then (so) it ended... ", "Yes"),
    ]
    assert pieces("天气很好。我们走吧！“好。”他说", "sentences") == ["天气很好。", "我们走吧！", "“好。”", "他说"]
    assert pieces("One. Two.\nThree.\n", "paragraphs") == ["One. Two.", "\n", "Three.", "\n"]


NOTICE = "This article may be printed and shared freely as long as the name of its author stays with it. "
OTHER = "Between the two rivers lies a plain where forty villages grow nothing but plums and red onions. "


def own(seed: int) -> str:
    return " ".join(prose(seed, 30).split()) + ". "


def kept_and_dropped(passages: Passages, rows: list[dict[str, str | None]]) -> tuple[dict[str, str], dict[str, str]]:
    config = Config(exact=False, lines=LineRule(rule="none"), minhash=MinHash(enabled=False), passages=passages)
    kept, dropped = dedup_rows(pa.Table.from_pylist(rows), config)
    texts = {row["id"]: row["text"] for row in kept.to_pylist()}
    return texts, {row["id"]: row["reason"] for row in dropped.to_pylist()}


def test_a_frequent_sentence_stays_in_one_document() -> None:
    variants = [NOTICE, NOTICE.replace("its author", "the author"), NOTICE.upper(), NOTICE.replace("freely", "by all")]
    rows = [document(f"d{i}", own(i) + variants[i] + own(50 + i)) for i in range(4)]
    rows += [document(f"o{i}", own(10 + i) + OTHER + own(60 + i)) for i in range(3)]
    texts, dropped = kept_and_dropped(Passages(enabled=True), rows)
    assert not dropped
    assert sum(len(texts[f"d{i}"]) > len(own(i) + own(50 + i)) + 20 for i in range(4)) == 1
    assert all(texts[f"d{i}"].startswith(own(i)) and own(50 + i).strip() in texts[f"d{i}"] for i in range(4))
    # Three documents are not more than three.
    assert all(OTHER in texts[f"o{i}"] for i in range(3))
    texts, _ = kept_and_dropped(Passages(enabled=True, max_documents=2), rows)
    assert sum(OTHER in texts[f"o{i}"] for i in range(3)) == 1
    assert kept_and_dropped(Passages(), rows)[0] == {row["id"]: row["text"] for row in rows}


@pytest.mark.parametrize("unit", ["sentences", "paragraphs"])
def test_a_document_of_copied_passages_is_dropped(unit: str) -> None:
    passages = Passages.model_validate({"enabled": True, "unit": unit, "max_documents": 1})
    copies = [document(f"c{i}", f"{NOTICE}\n{OTHER}\nAll rights reserved.") for i in range(6)]
    rows = [document("a", f"{own(1)}\n{NOTICE}\n{own(2)}"), document("b", f"{own(3)}\n{OTHER}\n{own(4)}"), *copies]
    # Within one document a passage may come again.
    rows += [document("d", f"{own(5)}\n{own(5)}")]
    texts, dropped = kept_and_dropped(passages, rows)
    assert texts["d"] == rows[-1]["text"]
    assert {"a", "b", "d"} <= texts.keys()
    # Two copies at most stay: the first documents, by a hash, to say one passage and the other.
    assert len(dropped) >= 4
    assert set(dropped.values()) == {"passages"}
    for passage in (NOTICE.strip(), OTHER.strip()):
        assert sum(passage in text for text in texts.values()) == 1
    lenient = passages.model_copy(update={"min_kept_share": 0.0})
    assert not kept_and_dropped(lenient, rows)[1]


def test_passages_do_not_depend_on_order_or_partitions(stage) -> None:
    rows = [document(f"d{i}", own(i) + (NOTICE if i % 2 else OTHER) + own(50 + i)) for i in range(12)]
    config = Config(lines=LineRule(rule="none"), passages=Passages(enabled=True), rows_per_shard=20, rows_per_call=1)
    first = stage([rows], config)
    second = stage([rows[7:], rows[:7][::-1]], config.model_copy(update={"rows_per_partition": 5}))
    assert second.bytes() == first.bytes()
    kept = first.table("documents")["text"].to_pylist()
    assert sum(NOTICE in text for text in kept) == sum(OTHER in text for text in kept) == 1
