"""Trials (shape, token counts, learning rate, ...) → what each scored, trained side by side on the stage's pool."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from modelmill.tasks.lm.data import TokenFolder
from modelmill.tasks.lm.settings import InitialisationConfig, OptimizerConfig
from modelmill.tasks.scaling.config import Config
from modelmill.tasks.scaling.proxy import train_proxy
from modelmill.tasks.scaling.sweep import SizeRuns
from modelmill.tasks.stage import Call, StageContext


@dataclass(frozen=True)
class Trial:
    """One stable run with a decay branched off at each of its points; `name` is stable across reruns.

    Where a value is not given, the recipe's holds. mixture: weights of domains; none: as the tokens artifact has them.
    """

    name: str
    label: str
    runs: SizeRuns
    learning_rate: float
    batch_tokens: int | None = None
    mixture: dict[str, float] | None = None
    optimizer: OptimizerConfig | None = None
    initialisation: InitialisationConfig | None = None


@dataclass(frozen=True)
class Score:
    """A decayed run's validation loss, that of each domain (nats per token), and what it scored on the suite."""

    loss: float
    domains: dict[str, float]
    answer_nll: float | None = None
    accuracy: float | None = None


class Fleet:
    """Trains trials of one stage and counts what they cost. `flops`: by the label of the experiment."""

    def __init__(self, context: StageContext, tokens: TokenFolder, warmup_tokens: int) -> None:
        self.config: Config = context.config
        self.flops: dict[str, float] = defaultdict(float)
        self._context = context
        self._tokens = tokens
        self._warmup_tokens = warmup_tokens

    def train(self, trials: Sequence[Trial], label: str, suite: str | None = None) -> list[list[Score]]:
        """The scores at each trial's points, in the order of the trials."""
        for trial in trials:
            self.flops[label] += trial.runs.training_flops(self.config.decay_share)
        calls = [Call(trial.name, self._arguments(trial, suite)) for trial in trials]
        found = self._context.pool.map(train_proxy, calls, label)
        return [[Score(**score) for score in scores] for scores in found]

    def _arguments(self, trial: Trial, suite: str | None) -> dict[str, Any]:
        config = self.config
        return {
            "tokens_folder": self._tokens.path,
            "shape": trial.runs.shape.model_dump(),
            "token_counts": [point.tokens for point in trial.runs.points],
            "learning_rate": trial.learning_rate,
            "batch_tokens": trial.batch_tokens or config.batch_tokens,
            "sequence_length": config.sequence_length,
            "warmup_tokens": self._warmup_tokens,
            "decay_share": config.decay_share,
            "validation_tokens_per_domain": config.validation_tokens_per_domain,
            "mixture": trial.mixture,
            "suite": suite,
            "initialisation": (trial.initialisation or config.initialisation).model_dump(),
            "optimizer": (trial.optimizer or config.optimizer).model_dump(),
            "seed": config.seed,
            "journal": self._context.journal,
            "label": trial.label,
            "device": self._context.device,
        }
