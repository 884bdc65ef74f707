"""Labelled texts → precision and recall of personal data by kind, and texts/s, beside datatrove and phonenumbers."""

from collections.abc import Iterable, Sequence

import pyarrow as pa

from modelmill.flows.benches.measured import Measured, cpu_seconds, peer
from modelmill.flows.benches.personal_samples import Sample, personal_samples
from modelmill.tasks.clean.config import PersonalData
from modelmill.tasks.clean.personal.redact import KINDS, found_in, redact

STEP = "personal data"
DATATROVE = "datatrove PIIFormatter"
PHONENUMBERS = "phonenumbers PhoneNumberMatcher"
Spans = Iterable[tuple[str, int, int]]


def measure(documents: Sequence[str] = (), num_samples: int = 2000, seed: int = 0) -> list[Measured]:
    """Quality on generated texts; rates on `documents` where there are any, else on the generated ones too.

    `quality` has `precision_KIND`, `recall_KIND`: a value counts as found where a span of its kind covers at least
    half of it and is covered by it at least half.
    """
    samples = personal_samples(num_samples, seed)
    texts = list(documents) or [sample.text for sample in samples]
    return [
        _ours(samples, texts),
        peer(STEP, DATATROVE, "datatrove", lambda: _datatrove(samples, texts)),
        peer(STEP, PHONENUMBERS, "phonenumbers", lambda: _phonenumbers(samples, texts)),
    ]


def _ours(samples: list[Sample], texts: list[str]) -> Measured:
    column = pa.array([sample.text for sample in samples])
    found: list[Spans] = [() for _ in samples]
    for row, _, begin, entries in found_in(column):
        found[row] = [(entry.kind, entry.begin - begin, entry.end - begin) for entry in entries]
    documents = pa.array(texts)
    rate = len(texts) / cpu_seconds(lambda: redact(documents, PersonalData()))
    return Measured(STEP, "modelmill", rate, "documents/s", scores(samples, found, KINDS))


def _datatrove(samples: list[Sample], texts: list[str]) -> Measured:
    from datatrove.pipeline.formatters.pii import PIIFormatter  # pyright: ignore[reportMissingImports]

    formatter = PIIFormatter()

    def spans(text: str) -> Spans:
        for kind, replacer in (("email", formatter.emails_replacer), ("ip", formatter.ip_replacer)):
            for match in replacer.regex.finditer(text):
                if replacer.validator is None or replacer.validator(match.group()):
                    yield kind, *match.span()

    quality = scores(samples, [spans(sample.text) for sample in samples], ("email", "ip"))
    rate = len(texts) / cpu_seconds(lambda: [formatter.format(text) for text in texts])
    return Measured(STEP, DATATROVE, rate, "documents/s", quality, "e-mail and IP addresses only")


def _phonenumbers(samples: list[Sample], texts: list[str]) -> Measured:
    from phonenumbers import PhoneNumberMatcher  # pyright: ignore[reportMissingImports]

    def spans(text: str) -> Spans:
        return [("phone", match.start, match.end) for match in PhoneNumberMatcher(text, "US")]

    quality = scores(samples, [spans(sample.text) for sample in samples], ("phone",))
    few = texts[:200]
    rate = len(few) / cpu_seconds(lambda: [spans(text) for text in few], repeats=1)
    return Measured(STEP, PHONENUMBERS, rate, "documents/s", quality, "telephone numbers only; region US")


def scores(samples: Sequence[Sample], found: Sequence[Spans], kinds: Sequence[str]) -> dict[str, float]:
    """Precision and recall of each kind over all texts; a kind that none was found of has precision 1."""
    right, expected, given = (dict.fromkeys(kinds, 0) for _ in range(3))
    for sample, spans in zip(samples, found, strict=True):
        open_spans = [span for span in sample.spans if span[0] in right]
        for kind, _, _ in open_spans:
            expected[kind] += 1
        for span in spans:
            given[span[0]] += 1
            match = next((other for other in open_spans if other[0] == span[0] and overlap(span, other) >= 0.5), None)
            if match:
                right[span[0]] += 1
                open_spans.remove(match)
    quality = {}
    for kind in kinds:
        quality[f"precision_{kind}"] = right[kind] / given[kind] if given[kind] else 1.0
        quality[f"recall_{kind}"] = right[kind] / max(expected[kind], 1)
    return quality


def overlap(left: tuple[str, int, int], right: tuple[str, int, int]) -> float:
    """Shared characters by those of the longer span."""
    shared = min(left[2], right[2]) - max(left[1], right[1])
    return max(shared, 0) / max(left[2] - left[1], right[2] - right[1])
