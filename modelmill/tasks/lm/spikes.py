"""The losses of a run, step by step → whether it has come off the rails, and which batches to leave out then.

A run with a spike stays a pure function of its inputs: the judgement rests on the losses alone, and the batches that
are left out stay so, whatever state the run goes back to and however often it is killed.
"""

import math
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from modelmill.tasks.errors import MillError
from modelmill.tasks.files import read_json, write_json
from modelmill.tasks.lm.plan import StepPoint
from modelmill.tasks.lm.settings import SpikeConfig

FILE = "spikes.json"
_NORMAL = 1.4826
"""Median absolute deviation of a normal distribution → its standard deviation."""


@dataclass(frozen=True)
class Spike:
    """Steps [first_skipped, last_skipped] are left out. loss: that of the last of them, none if it is no number."""

    step: int
    tokens: int
    first_skipped: int
    last_skipped: int
    skipped_tokens: int
    spike_loss: float | None
    usual_loss: float | None

    def __str__(self) -> str:
        usual = "" if self.usual_loss is None else f" (usual: {self.usual_loss:.4g})"
        found = "is no finite number" if self.spike_loss is None else f"was {self.spike_loss:.4g}"
        return f"the loss or its gradient {found} at step {self.last_skipped}{usual}"


class SpikeWatch:
    """What a run remembers of its losses. `folder`: where spikes are kept; none: the run has no state to go back to."""

    def __init__(self, config: SpikeConfig, folder: Path | None) -> None:
        self.config = config
        self.file = folder / FILE if folder else None
        kept = read_json(self.file) if self.file and self.file.is_file() else []
        self.spikes = [Spike(**values) for values in kept]
        self.recent: list[float] = []
        self.high = 0

    @property
    def state(self) -> dict[str, Any]:
        """What a training state must hold so that a resumed run judges alike."""
        return {"recent": self.recent, "high": self.high}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned."""
        self.recent, self.high = list(state["recent"]), state["high"]

    def skips(self, step: int) -> bool:
        """Whether the batch of a step is left out."""
        return any(spike.first_skipped <= step <= spike.last_skipped for spike in self.spikes)

    def judge(self, point: StepPoint, loss: float, norm: float) -> Spike | None:
        """The spike that this step completes, if it does; `loss` and gradient `norm` of all processes together."""
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return self._spike(point, None)
        if not self._is_high(loss):
            self.recent = [*self.recent, loss][-self.config.window :]
            self.high = 0
            return None
        self.high += 1
        return self._spike(point, loss) if self.high >= self.config.patience else None

    def _is_high(self, loss: float) -> bool:
        if self.file is None or len(self.recent) < self.config.min_steps:
            return False
        median = statistics.median(self.recent)
        deviation = _NORMAL * statistics.median(abs(value - median) for value in self.recent)
        return loss > median + max(self.config.deviations * deviation, self.config.min_rise)

    def _spike(self, point: StepPoint, loss: float | None) -> Spike:
        high = self.high if loss is not None else self.high + 1
        first = max(point.step - high + 1 - self.config.skip_before, 0)
        return Spike(
            step=point.step + 1,
            tokens=point.tokens + point.num_tokens,
            first_skipped=first,
            last_skipped=point.step,
            skipped_tokens=(point.step - first + 1) * point.num_tokens,
            spike_loss=loss,
            usual_loss=statistics.median(self.recent) if self.recent else None,
        )

    def check(self, spike: Spike, label: str) -> None:
        """Refuse what a rollback cannot help.

        Raises:
            MillError: there is no state to go back to, or there were too many spikes.
        """
        if self.file is None:
            reason = "there is no workspace with an earlier state to go back to"
        elif len(self.spikes) >= self.config.max_rollbacks:
            reason = f"the run went back {len(self.spikes)} times before (spikes.max_rollbacks)"
        else:
            return
        raise MillError(
            f"{label}: {spike}, and {reason}. Lower the learning rate, lengthen the warm-up or look at the data of "
            f"steps {spike.first_skipped} to {spike.last_skipped}"
        )

    def record(self, spike: Spike, *, write: bool = True) -> None:
        """Leave the spike's batches out from now on; call it when the states behind them are gone, not before."""
        self.spikes.append(spike)
        if self.file and write:
            write_json(self.file, [asdict(each) for each in self.spikes])

    def marked(self, curve: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The lines of a curve with one for each spike, in the order of their steps."""
        return sorted([*curve, *(asdict(spike) for spike in self.spikes)], key=lambda line: line["step"])
