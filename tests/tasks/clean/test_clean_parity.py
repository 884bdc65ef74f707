"""The published filters' verdicts beside those of datatrove 0.10.1, on texts about the thresholds and on real ones."""

import pydoc

import pytest

from modelmill.flows.benches.rule_texts import reference_texts, texts_about_thresholds
from modelmill.flows.benches.rules import agreement, datatrove_verdicts, verdicts


def test_verdicts_are_datatroves() -> None:
    pytest.importorskip("spacy", reason="datatrove cuts words with spaCy: install requirements-dev.lock")
    pytest.importorskip("datatrove", reason="the peer is not installed: install requirements-dev.lock")
    texts = [*texts_about_thresholds(300), *reference_texts()[::20], pydoc.plain(pydoc.render_doc("json.decoder"))]
    ours, theirs = verdicts(texts), datatrove_verdicts(texts)
    assert all(share >= 0.995 for share in agreement(ours, theirs).values())
    same_reason = [one == other for one, other in zip(ours["chain"], theirs["chain"], strict=True)]
    assert sum(same_reason) >= 0.99 * len(texts)
    # The texts must put the filters to the test: each drops some and keeps some.
    assert all(0.05 < sum(reason is None for reason in found) / len(texts) < 0.95 for found in theirs.values())
    assert len({reason for found in theirs.values() for reason in found}) >= 18
