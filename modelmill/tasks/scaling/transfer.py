"""The same base learning rates at several widths with muP's groups → whether the best one stays where it is.

muP (arXiv:2203.03466) promises that the rate found on a narrow model is the best one of a wide model too. What counts
is what the narrow model's rate costs the widest: DeepSeek calls a setting near-optimal within 0.25 % of the best.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from modelmill.tasks.scaling.learning_rate import BestRate, RateTrial, best_rate

NEAR_OPTIMAL = 0.0025


@dataclass(frozen=True)
class Transfer:
    """The best rate of each width, ascending. penalty: share of the widest model's loss that the narrowest one's rate
    costs; none where either has no valley."""

    best: tuple[BestRate, ...]
    penalty: float | None

    @property
    def verdict(self) -> str:
        """One sentence for people."""
        narrow, wide = self.best[0], self.best[-1]
        if self.penalty is None:
            return "muP: no valley inside the tried rates at the narrowest or the widest model; try other rates."
        kept = "transfers" if self.penalty <= NEAR_OPTIMAL else "does not transfer"
        return (
            f"muP: the base rate {kept}: best {narrow.learning_rate:.2g} at width {narrow.hidden_size}, "
            f"{wide.learning_rate:.2g} at {wide.hidden_size}; the narrow one's costs the wide one {self.penalty:.2%}."
        )


def judge_transfer(trials: Sequence[RateTrial]) -> Transfer:
    """Compare the widths' valleys."""
    widths = sorted({trial.hidden_size for trial in trials})
    best = tuple(best_rate([trial for trial in trials if trial.hidden_size == width]) for width in widths)
    seen = best[0].inside and best[-1].inside
    return Transfer(best, float(best[-1].penalty(best[0].learning_rate)) if seen else None)
