"""A model after a growth of its context → whether short text recovered and facts are found at the new length."""

from typing import Any

from transformers import PreTrainedModel

from modelmill.tasks.errors import GateError
from modelmill.tasks.extend.config import Gates
from modelmill.tasks.lm.needle import Haystack, needle_scores


def check_gates(
    model: PreTrainedModel,
    haystack: Haystack,
    gates: Gates,
    *,
    sequence_length: int,
    short_before: float,
    short_after: float,
) -> dict[str, Any]:
    """Both gates after one step: figures, limits and whether each was passed; `short_*` are bits per byte."""
    scores = needle_scores(
        model, haystack, lengths=[sequence_length], depths=gates.depths, num_samples=gates.num_samples
    )
    accuracy = sum(score.accuracy for score in scores) / len(scores)
    limit = short_before * (1 + gates.short_tolerance)
    return {
        "sequence_length": sequence_length,
        "short": {
            "bits_per_byte_before": short_before,
            "bits_per_byte": short_after,
            "limit": limit,
            "passed": short_after <= limit,
        },
        "needle": {
            "accuracy": accuracy,
            "limit": gates.needle_accuracy,
            "passed": accuracy >= gates.needle_accuracy,
            "by_depth": [
                {"depth": score.depth, "accuracy": score.accuracy, "n": score.num_samples} for score in scores
            ],
        },
    }


def failures(outcome: dict[str, Any]) -> list[str]:
    """One sentence for each gate that was not passed."""
    length, short, needle = outcome["sequence_length"], outcome["short"], outcome["needle"]
    found = []
    if not short["passed"]:
        found.append(
            f"short text at {length} tokens: {short['bits_per_byte']:.4f} bits per byte, at most {short['limit']:.4f} "
            f"allowed (before extension {short['bits_per_byte_before']:.4f})"
        )
    if not needle["passed"]:
        found.append(
            f"needle at {length} tokens: {needle['accuracy']:.0%} of the facts found, "
            f"at least {needle['limit']:.0%} needed"
        )
    return found


def enforce(outcome: dict[str, Any], gates: Gates) -> list[str]:
    """The waivers to record: none when both gates were passed.

    Raises:
        GateError: a gate was not passed and the recipe does not waive it.
    """
    missed = failures(outcome)
    if missed and gates.on_failure == "stop":
        raise GateError(
            f"extend: gate not passed: {'; '.join(missed)}. Train this step on more tokens, raise needle_share or the "
            "learning rate; or set extend.gates.on_failure: waive to go on with the failure on record"
        )
    return [f"gate waived: {sentence}" for sentence in missed]
