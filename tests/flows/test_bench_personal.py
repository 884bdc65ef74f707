"""The labelled set of invented personal data, and how findings are scored against it."""

from modelmill.flows.benches.personal_data import measure, overlap, scores
from modelmill.flows.benches.personal_samples import Sample, personal_samples
from modelmill.tasks.clean.personal.redact import KINDS


def test_samples_are_equal_for_a_seed_and_say_where_values_stand() -> None:
    samples = personal_samples(40, seed=5)
    assert samples == personal_samples(40, seed=5)
    assert samples != personal_samples(40, seed=6)
    assert {kind for sample in samples for kind, _, _ in sample.spans} == set(KINDS)
    emails = [sample.text[begin:end] for sample in samples for kind, begin, end in sample.spans if kind == "email"]
    assert emails
    assert all(email.count("@") == 1 and " " not in email for email in emails)


def test_scores_match_each_value_once() -> None:
    samples = [Sample("x" * 40, (("ip", 0, 10), ("ip", 20, 30), ("key", 30, 40)))]
    quality = scores(samples, [[("ip", 0, 10), ("ip", 1, 10), ("ip", 14, 25), ("key", 32, 40)]], ("ip", "key"))
    assert quality == {"precision_ip": 1 / 3, "recall_ip": 0.5, "precision_key": 1.0, "recall_key": 1.0}
    assert overlap(("ip", 0, 4), ("ip", 2, 8)) == 2 / 6


def test_most_of_the_invented_values_are_found() -> None:
    ours = measure(num_samples=150, seed=2)[0]
    assert ours.rate
    assert min(ours.quality.values()) > 0.95
