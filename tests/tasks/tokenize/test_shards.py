"""The token format: written documents come back, across shards, in either width."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from modelmill.tasks.errors import InputError
from modelmill.tasks.tokenize.shards import TokenShards, write_index, write_shards


def write_tokens(folder: Path, vocab_size: int = 300, documents_per_shard: int = 2) -> list[list[int]]:
    documents = [[5, 6, 1], [7, 1], [8, 9, 10, 1], [1], [vocab_size - 1, 1]]
    entry = write_shards(
        folder,
        "train",
        "language",
        documents,
        vocab_size=vocab_size,
        num_bytes=40,
        documents_per_shard=documents_per_shard,
    )
    write_index(
        folder,
        {"train": {"language": entry}, "validation": {}},
        vocab_size=vocab_size,
        eos_token_id=1,
        mixture={"language": 0.4, "data": 0.6},
    )
    return documents


@pytest.mark.parametrize("vocab_size", [300, 65_536, 65_537])
def test_documents_come_back(tmp_path: Path, vocab_size: int) -> None:
    documents = write_tokens(tmp_path, vocab_size)
    shards = TokenShards(tmp_path, "train")
    assert shards.dtype.itemsize == (2 if vocab_size <= 65_536 else 4)
    assert [row.tolist() for row in shards.documents("language")] == documents
    assert [shards.document("language", number).tolist() for number in range(5)] == documents
    assert shards.document_starts("language").tolist() == [0, 3, 5, 9, 10, 12]
    assert (shards.total_tokens, shards.num_documents("language"), shards.num_bytes("language")) == (12, 5, 40)
    assert shards.mixture == {"language": 1.0}


def test_window_crosses_shards(tmp_path: Path) -> None:
    flat = [token for document in write_tokens(tmp_path) for token in document]
    shards = TokenShards(tmp_path, "train")
    for start in range(len(flat)):
        for end in range(start, len(flat) + 1):
            assert shards.window("language", start, end - start).tolist() == flat[start:end]
    with pytest.raises(IndexError, match="outside of the stream"):
        shards.window("language", 10, 3)


def test_reader_maps_and_pickles(tmp_path: Path) -> None:
    write_tokens(tmp_path, documents_per_shard=10)
    shards = TokenShards(tmp_path, "train")
    assert isinstance(shards.window("language", 1, 4), np.memmap)
    assert pickle.loads(pickle.dumps(shards)).document("language", 2).tolist() == [8, 9, 10, 1]


def test_missing_parts_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no token index"):
        TokenShards(tmp_path, "train")
    write_tokens(tmp_path)
    with pytest.raises(InputError, match="not 'test'"):
        TokenShards(tmp_path, "test")
    with pytest.raises(InputError, match="no domain 'poetry'"):
        TokenShards(tmp_path, "train").num_tokens("poetry")
    (tmp_path / "train" / "language" / "shard-00001.bin").write_bytes(b"\x01\x00")
    with pytest.raises(InputError, match="its index says 5"):
        TokenShards(tmp_path, "train").document("language", 2)
