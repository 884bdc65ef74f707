"""The divergence by its definition, and the stage's two passes over several shards."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from modelmill.tasks.clean.config import Config
from modelmill.tasks.clean.distribution import BUCKETS, UNSEEN, counted, divergences, merged
from modelmill.tasks.clean.stage import run
from modelmill.tasks.journal import Journal
from modelmill.tasks.stage import Artifact, Pool, StageContext
from modelmill.tasks.text.flat import characters
from modelmill.tasks.text.shards import read_shard, write_shard
from modelmill.tasks.text.words import words

ORDINARY = "The people of the town met at the bridge and they talked about the river and the old mill again and again."
OUTLIER = (
    "Cheap watches, brand new handbags, fast shipping worldwide: buy your genuine luxury replica shoes today online."
)


def table(texts: list[str], languages: list[str]) -> pa.Table:
    return pa.table({"text": pa.array(texts, pa.large_string()), "language": languages})


def test_the_divergence_is_that_of_the_definition() -> None:
    texts, languages = ["a b a c", "a a a d", "a b", "", "e"], ["en", "en", "de", "en", "fr"]
    counts = merged([counted(table(texts[:1], ["en"])), counted(table(texts[1:4], languages[1:4]))])
    assert {language: part.sum() for language, part in counts.items()} == {"de": 2, "en": 8}
    found = divergences(words(characters(pa.array(texts))), languages, counts)
    crawl = Counter(["a", "b", "a", "c", "a", "a", "a", "d"])
    page = {"a": 2 / 4, "b": 1 / 4, "c": 1 / 4}
    shares = {word: (1 - UNSEEN) * crawl[word] / 8 + UNSEEN / BUCKETS for word in page}
    expected = sum(share * math.log(share / shares[word]) for word, share in page.items())
    assert found[0] == pytest.approx(expected)
    assert found[3:].tolist() == [0, 0]  # no words, and a language that was not counted


def test_counts_do_not_depend_on_how_pages_are_cut_into_shards() -> None:
    whole = counted(table(["a b", "c a", "b"], ["en", "de", "en"]))
    parts = merged([counted(table(["b"], ["en"])), counted(table(["a b", "c a"], ["en", "de"]))])
    assert whole.keys() == parts.keys()
    assert all(np.array_equal(whole[language], parts[language]) for language in whole)


def test_a_page_far_from_the_crawl_is_dropped(tmp_path: Path, pool: Pool) -> None:
    for number, rows in enumerate([[ORDINARY] * 20, [OUTLIER, ORDINARY]]):
        write_shard(pa.table({"text": rows}), tmp_path / "pages" / "pages" / f"part-{number:05d}.parquet")
    off = {name: {"enabled": False} for name in ("gopher", "repetition", "c4", "fineweb", "url")}
    settings = off | {"token_distribution": {"enabled": True, "max_divergence": 2.0}}
    pages = Artifact("pages", tmp_path / "pages", "digest", "ingest", {})
    config, journal = Config.model_validate(settings), Journal(tmp_path / "journal.jsonl")
    context = StageContext(config, {"pages": [pages]}, tmp_path, tmp_path / "output", pool, journal, lambda: None)  # type: ignore[arg-type,return-value]
    result = run(context)
    assert result.rows_in == 22
    kept = pa.concat_tables([read_shard(path) for path in sorted((tmp_path / "output" / "documents").iterdir())])
    assert set(kept["text"].to_pylist()) == {ORDINARY}
    assert result.dropped == {"token_distribution": 1}
