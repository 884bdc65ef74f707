"""Benches measure what they say, on input that they make."""

import pytest

from modelmill.flows.benches.languages import accuracy, measure, names_of_countries
from modelmill.tasks.clean.language import identify


def test_accuracy_is_the_share_of_each_language() -> None:
    labelled = [("nn", "a"), ("no", "b"), ("zh", "c"), ("zh", "d")]
    assert accuracy(labelled, ["no", "sv", "zh-Hant", "yue"]) == {"no": 0.5, "zh": 1.0}


def test_languages_are_measured_beside_their_peers() -> None:
    paragraphs = [(code, text) for code, text in names_of_countries() if code in ("cs", "cy", "el", "fi")]
    ours, common, *peers = measure(paragraphs)
    assert ours.quality["languages"] == 4
    assert ours.quality["eldc's languages"] == 3
    assert ours.rate is not None
    assert common.quality["languages"] == 3
    found = identify([text for _, text in paragraphs])[0]
    right = accuracy(paragraphs, found)
    assert ours.quality["accuracy"] == pytest.approx(sum(right.values()) / 4)
    assert all(peer.rate or peer.note for peer in peers)
    assert {peer.tool for peer in peers} == {"eldc", "CLD2", "lid.176.ftz", "lingua"}
