"""A model after a growth of its context → whether short text recovered and facts are found at every length so far."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from modelmill.tasks.errors import GateError
from modelmill.tasks.extend.config import Gates
from modelmill.tasks.lm.evaluate import ValidationSet, WindowScores, score_windows
from modelmill.tasks.lm.needle import Haystack, needle_scores
from modelmill.tasks.lm.ruler import ruler_scores

NOISE_ERRORS = 2.0
"""Standard errors of a paired difference that still count as noise: about 95 % of differences of nothing."""


def measure(
    model: PreTrainedModel, haystack: Haystack, held_out: ValidationSet, gates: Gates, lengths: Sequence[int]
) -> dict[str, Any]:
    """Facts found by length and depth, the tasks like RULER's, and the windows of short text."""
    needles = needle_scores(model, haystack, lengths=lengths, depths=gates.depths, num_samples=gates.num_samples)
    ruler = (
        ruler_scores(model, haystack, lengths=lengths, num_samples=gates.ruler_samples) if gates.ruler_samples else []
    )
    return {
        "windows": score_windows(model, held_out) if gates.short_tolerance == "noise" else None,
        "needle": [
            {"length": score.length, "depth": score.depth, "accuracy": score.accuracy, "n": score.num_samples}
            for score in needles
        ],
        "ruler": [
            {"task": score.task, "length": score.length, "accuracy": score.accuracy, "n": score.num_samples}
            for score in ruler
        ],
    }


def check_gates(
    before: dict[str, Any], after: dict[str, Any], gates: Gates, *, short_before: float, short_after: float
) -> dict[str, Any]:
    """Both gates after one step: figures, limits and whether each was passed.

    `before`, `after`: what `measure` found before the first step and after this one; `short_*`: bits per byte.
    """
    if gates.short_tolerance == "noise":
        noise = difference_error(before["windows"], after["windows"])
        tolerance = NOISE_ERRORS * noise
    else:
        noise, tolerance = None, short_before * gates.short_tolerance
    grid = after["needle"]
    accuracy = sum(cell["accuracy"] for cell in grid) / len(grid)
    return {
        "short": {
            "bits_per_byte_before": short_before,
            "bits_per_byte": short_after,
            "limit": short_before + tolerance,
            "standard_error": noise,
            "passed": short_after <= short_before + tolerance,
        },
        "needle": {
            "accuracy": accuracy,
            "limit": gates.needle_accuracy,
            "passed": accuracy >= gates.needle_accuracy,
            "grid": grid,
        },
        "ruler": after["ruler"],
    }


def difference_error(before: WindowScores, after: WindowScores) -> float:
    """Standard error of the difference in bits per byte of two models on the same windows, which count as a sample."""
    difference = after.bits - before.bits
    total = before.bytes.sum()
    residual = difference - difference.sum() / total * before.bytes
    count = len(residual)
    return float(np.sqrt(count / max(count - 1, 1) * (residual**2).sum()) / total)


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
            "learning rate, lower extend.gates.needle_accuracy; or set extend.gates.on_failure: waive to go on with "
            "the failure on record"
        )
    return [f"gate waived: {sentence}" for sentence in missed]
