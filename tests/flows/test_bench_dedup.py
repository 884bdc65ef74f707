"""The inputs that the dedup bench makes are what it says, and its own tool runs on them."""

from modelmill.flows.benches.dedup import generated_texts, measure, planted_pairs
from modelmill.tasks.text.flat import string_array


def test_planted_pairs_have_the_similarity_that_they_claim() -> None:
    texts, exact = planted_pairs(0.6, 7, 3, 40)
    words = [set(text.split()) for text in string_array(texts).to_pylist()]
    assert all(len(each) == 40 for each in words)
    for left, right in zip(words[::2], words[1::2], strict=True):
        assert len(left & right) / len(left | right) == exact
    assert abs(exact - 0.6) < 0.02
    assert not words[0] & words[2]


def test_the_bench_measures_what_is_installed() -> None:
    texts = generated_texts(50)
    assert texts == generated_texts(50)
    ours, *peers, recall = measure(texts, num_pairs=4_000)
    assert ours.rate is not None and ours.rate > 0
    assert ours.quality == {"documents kept": 40.0, "of": 50.0}
    assert all(peer.note.startswith("not installed: pip install") or peer.rate for peer in peers)
    # Four standard errors of a share of 4,000.
    assert recall.quality["largest deviation"] < 0.032
