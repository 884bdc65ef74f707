"""The stage whole: totals agree with the corpus, the sample follows the mixture, and reruns give the same bytes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from modelmill.tasks.errors import InputError
from modelmill.tasks.files import file_digest, remove_path
from modelmill.tasks.stage import StageContext
from modelmill.tasks.tokenize.parts import sample_part
from modelmill.tasks.tokenize.shards import TokenShards
from modelmill.tasks.tokenize.stage import run, sample_rates
from tests.tasks.tokenize.small_corpus import MIXTURE, corpus_table


def digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): file_digest(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def test_tokens_are_the_corpus(make_context: Callable[..., StageContext]) -> None:
    context = make_context()
    result = run(context)
    assert (result.rows_in, result.rows_out) == (180, 180)
    tokenizer = AutoTokenizer.from_pretrained(context.output / "tokenizer")
    assert len(tokenizer) == 400 == result.metrics["vocab_size"]
    for split in ("train", "validation"):
        shards = TokenShards(context.output, split)
        for domain in shards.domains:
            texts = [
                row["text"]
                for part in range(3)
                for row in corpus_table(part).to_pylist()
                if (row["domain"], row["split"]) == (domain, split)
            ]
            documents = list(shards.documents(domain))
            assert [tokenizer.decode(document[:-1]) for document in documents] == texts
            assert all(document[-1] == 1 for document in documents)
            assert shards.num_bytes(domain) == sum(len(text.encode()) for text in texts)
            assert shards.num_tokens(domain) == sum(map(len, documents))
    shards = TokenShards(context.output, "train")
    assert shards.mixture == MIXTURE
    assert shards.total_tokens == result.metrics["tokens/train"]
    assert shards.dtype == np.uint16
    assert 1 < result.metrics["bytes_per_token/train/prose"] < 10


def test_rerun_gives_the_same_bytes(make_context: Callable[..., StageContext]) -> None:
    context = make_context()
    run(context)
    first = digests(context.output)
    run(context)  # every call is recorded
    assert digests(context.output) == first
    remove_path(context.workspace)
    run(context)
    assert digests(context.output) == first


def test_small_corpus_gives_a_smaller_vocabulary(make_context: Callable[..., StageContext]) -> None:
    result = run(make_context(vocab_size=50_000))
    assert 272 < result.metrics["vocab_size"] < 5_000
    assert "50,000 asked for" in result.summary


def test_sample_follows_the_mixture() -> None:
    sizes = {"a": {"bytes": 900, "documents": 9}, "b": {"bytes": 100, "documents": 1}}
    assert sample_rates(sizes, {"a": 0.5, "b": 0.5}, 500) == pytest.approx({"a": 250 / 900, "b": 2.5})
    assert sample_rates(sizes, {"a": 1.0}, 5000) == pytest.approx({"a": 1000 / 900, "b": 0})
    with pytest.raises(InputError, match="no training text"):
        sample_rates(sizes, {"c": 1.0}, 500)


def test_sample_is_evenly_spaced_over_parts(tmp_path: Path) -> None:
    taken = []
    for part in range(3):
        path, output = tmp_path / f"{part}.parquet", tmp_path / f"sample-{part}.parquet"
        pq.write_table(corpus_table(part), path)
        sample_part(str(path), str(output), {"prose": 0.3, "code": 2.0}, {"prose": 27 * part, "code": 12 * part})
        taken.append(pq.read_table(output)["text"].to_pylist())
    code = [text for text in taken[0] if text.startswith("def")]
    prose = [text for texts in taken for text in texts if not text.startswith("def")]
    assert len(code) == 2 * len(set(code)) == 24
    assert len(prose) == int(81 * 0.3)
