"""A sampler with a model loaded and held-out text → share of facts found again, by context length and depth."""

from pathlib import Path
from typing import Any

from modelmill.tasks.evaluate.config import Needle
from modelmill.tasks.lm.data import open_tokens
from modelmill.tasks.lm.needle import Haystack, needle_prompt
from modelmill.tasks.stage import Sampler
from modelmill.tasks.verify.scores import wilson

DIGITS = 6


def needle_grid(sampler: Sampler, part: Needle, tokens: Path, max_length: int) -> list[dict[str, Any]]:
    """[{length, depth, accuracy, low, high, n}] for every length that fits into the model, with 95 % intervals.

    The haystacks are those of extend's gate, made of validation text; here the inference engine answers.
    """
    haystack = Haystack(open_tokens(tokens), "validation", part.facts)
    cells = [(length, depth) for length in part.lengths if length <= max_length for depth in part.depths]
    asked = [needle_prompt(haystack, length, depth, number) for length, depth in cells for number in range(part.trials)]
    found = sampler.sample([prompt for prompt, _ in asked], max_tokens=part.facts.num_digits)
    hits = [sample.token_ids == answer for (sample, *_), (_, answer) in zip(found, asked, strict=True)]
    grid = []
    for number, (length, depth) in enumerate(cells):
        score = wilson(sum(hits[number * part.trials : (number + 1) * part.trials]), part.trials)
        grid.append(
            {
                "length": length,
                "depth": depth,
                "accuracy": round(score.accuracy, DIGITS),
                "low": round(score.low, DIGITS),
                "high": round(score.high, DIGITS),
                "n": score.n,
            }
        )
    return grid
