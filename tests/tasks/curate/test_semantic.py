"""Semantic dedup: the greedy choice and k-means against the definition, and the stage on planted copies."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from modelmill.tasks.curate.clusters import greedy_survivors, kmeans_centres, nearest_centres
from modelmill.tasks.curate.config import Config, SemanticDedup, external_digests
from modelmill.tasks.curate.embeddings import document_frequencies, model_embeddings, small_integers, word_embeddings
from modelmill.tasks.curate.stage import run
from modelmill.tasks.errors import InputError
from modelmill.tasks.files import remove_path


def directions(seed: int, num_rows: int, spread: float = 0.3) -> np.ndarray:
    """Rows around ten directions."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((10, 32))
    return small_integers(centres[np.arange(num_rows) % 10] + spread * generator.standard_normal((num_rows, 32)))


def cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    left, right = (
        part / np.linalg.norm(part, axis=1, keepdims=True) for part in (left.astype(float), right.astype(float))
    )
    return left @ right.T


def test_the_greedy_choice_is_the_definition() -> None:
    rows = directions(1, 2500)
    near = cosines(rows, rows) >= 0.95
    expected, kept = [], []
    for i in range(len(rows)):
        before = [k for k in kept if near[i, k]]
        expected.append(before[0] if before else i)
        kept += [] if before else [i]
    assert 100 < len(kept) < 2400
    assert greedy_survivors(rows, 0.95).tolist() == expected


def test_kmeans_finds_planted_directions_and_batches_do_not_show() -> None:
    rows = directions(2, 1000)
    labels = nearest_centres(rows, kmeans_centres(rows, 10))
    assert all(len(set(labels[i::10].tolist())) == 1 for i in range(10))
    assert len(set(labels.tolist())) == 10
    more = directions(3, 1500)
    centres = kmeans_centres(more, 40)
    whole = nearest_centres(more, centres)
    assert (
        np.concatenate([nearest_centres(more[:700], centres), nearest_centres(more[700:], centres)]).tolist()
        == whole.tolist()
    )


def test_small_integers_keep_cosines() -> None:
    rows = np.random.default_rng(4).standard_normal((50, 256))
    assert np.abs(cosines(small_integers(rows), small_integers(rows)) - cosines(rows, rows)).max() < 3e-3
    assert small_integers(np.zeros((1, 4))).tolist() == [[0, 0, 0, 0]]


def page(seed: int, num_words: int = 300) -> list[str]:
    generator = random.Random(seed)
    return ["".join(generator.choices("abcdefghij", k=5)) for _ in range(num_words)]


def shuffled(words: list[str], seed: int) -> str:
    """The same in chunks of twenty words in another order: few shingles and most word pairs stay."""
    chunks = [words[i : i + 20] for i in range(0, len(words), 20)]
    random.Random(seed).shuffle(chunks)
    return " ".join(word for chunk in chunks for word in chunk)


def rows() -> list[dict[str, Any]]:
    found = [{"id": f"p{i:02}", "text": " ".join(page(i))} for i in range(24)]
    found += [{"id": f"q{i:02}", "text": shuffled(page(i), i) + " end"} for i in range(0, 24, 4)]
    found += [{"id": f"half{i}", "text": " ".join(page(i)[:150] + page(100 + i)[:150])} for i in range(3)]
    return [{**row, "url": None, "source": "s", "language": "en"} for row in found]


def curated(make_context: Callable, folder: Path, parts: int, semantic: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Dropped rows by id, of the documents cut into some parts."""
    context = make_context({"semantic": semantic})
    for path in (context.workspace, folder):
        remove_path(path)
    (folder / "documents").mkdir(parents=True)
    schema = pa.schema([(name, pa.string()) for name in ("id", "text", "url", "source", "language")])
    for part in range(parts):
        table = pa.Table.from_pylist(rows()[part::parts], schema=schema)
        pq.write_table(table, folder / "documents" / f"part-{part:05d}.parquet")
    result = run(context)
    dropped = [row for path in (context.output / "dropped").iterdir() for row in pq.read_table(path).to_pylist()]
    assert result.rows_in == 33 == result.rows_out + len(dropped)
    assert result.dropped == {"semantic": len(dropped)}
    return {row["id"]: row for row in dropped}


def test_shuffled_copies_go_whatever_the_parts(make_context: Callable, unique: Any) -> None:
    semantic = {"threshold": 0.9, "documents_per_cluster": 100}
    dropped = curated(make_context, unique.path, 1, semantic)
    # The longer one stays, here the copy with a word more.
    assert {name: row["survivor"] for name, row in dropped.items()} == {f"p{i:02}": f"q{i:02}" for i in range(0, 24, 4)}
    again = curated(make_context, unique.path, 4, semantic | {"clusters_per_call": 1})
    assert again == dropped
    # Several clusters: a pair and its centre agree.
    clustered = curated(make_context, unique.path, 3, semantic | {"documents_per_cluster": 8, "clusters_per_call": 2})
    assert clustered.keys() == dropped.keys()


def test_words_embed_alike_whatever_the_batch() -> None:
    texts = pa.chunked_array([pa.array([row["text"] for row in rows()])])
    frequencies = document_frequencies(texts)
    whole = word_embeddings(texts, frequencies, len(texts))
    assert np.array_equal(whole[5:9], word_embeddings(texts.slice(5, 4), frequencies, len(texts)))
    similar = cosines(whole, whole)
    assert similar[0, 24] > 0.9  # a shuffled copy
    assert 0.3 < similar[0, 30] < 0.7  # half of it
    assert np.abs(similar[0, 1:24]).max() < 0.3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny embedding model with random weights."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("model")
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "[PAD]": 1, "red": 2, "green": 3, "blue": 4}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(vocab_size=5, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    BertModel(config).save_pretrained(folder)
    return folder


def test_a_model_of_ones_own(model: Path) -> None:
    texts = pa.chunked_array([["red green blue", "blue", "red green blue", "green " * 99]])
    found = model_embeddings(texts, str(model), max_tokens=16, device="cpu")
    assert found.shape == (4, 16)
    assert found[0].tolist() == found[2].tolist() != found[1].tolist()
    named = Config(semantic=SemanticDedup(model=str(model)))
    first = external_digests(named)
    assert first.keys() == {"semantic.model", "torch", "transformers"}
    (model / "config.json").write_text((model / "config.json").read_text() + " ")
    assert external_digests(named) != first
    assert external_digests(Config(semantic=SemanticDedup())) == {}
    with pytest.raises(InputError, match=r"holds no config\.json"):
        external_digests(Config(semantic=SemanticDedup(model="/nowhere")))
