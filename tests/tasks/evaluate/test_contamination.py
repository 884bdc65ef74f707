"""Overlap of suite items with training tokens."""

import json
from pathlib import Path

import numpy as np
import pytest

from modelmill.services.compute import RecordedPool
from modelmill.tasks.evaluate import contamination
from modelmill.tasks.evaluate.contamination import item_shares, ngram_hashes, overlap_shares
from modelmill.tasks.stage import Artifact
from tests.tasks.evaluate.tiny import TEXTS


def test_share_is_that_of_the_tokens_in_a_common_ngram() -> None:
    training = np.arange(100)
    found = np.unique(ngram_hashes(training, 8))
    unseen = np.arange(500, 520)
    half = np.concatenate([np.arange(30, 40), np.arange(300, 310)])
    assert overlap_shares([training[5:25], unseen, half, training[:7], []], found, 8) == [1.0, 0.0, 0.5, 0.0, 0.0]


def test_no_ngram_falls_between_two_blocks(
    line: dict[str, list[Artifact]], pool: RecordedPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = tmp_path / "mine.jsonl"
    inside = {"question": " ".join(TEXTS[3].split()[:20]), "answer": ""}
    outside = {"question": "Zebras jump over 12 green hills while 9 owls sing", "answer": "yes"}
    suite.write_text(json.dumps(inside) + "\n" + json.dumps(outside) + "\n")
    tokens = line["tokens"][0].path
    whole = item_shares([str(suite)], tokens, 8, pool, tmp_path / "a")
    assert whole == {"mine": [1.0, 0.0]}
    monkeypatch.setattr(contamination, "BLOCK", 11)
    again = RecordedPool(pool._executor, pool._config, tmp_path / "b", pool._journal)
    assert item_shares([str(suite)], tokens, 8, again, tmp_path / "b") == whole
