"""The bench of tokens: every tool gets the same texts, and the share of equal ids is counted, not assumed."""

import pytest

from modelmill.flows.benches.tokens import generated_texts, measure


def test_tools_with_one_vocabulary_give_the_same_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYON_NUM_THREADS", "1")  # which the bench sets: put back afterwards
    found = {each.tool: each for each in measure(generated_texts(30_000), vocab_sizes=[400]) if "own" not in each.step}
    assert set(found) == {"modelmill", "tokenizers", "tiktoken"}
    for each in found.values():
        assert each.quality["same_texts"] == 1.0
        assert each.rate and each.unit == "tokens/s"
    assert len({each.quality["bytes_per_token"] for each in found.values()}) == 1
